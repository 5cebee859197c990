"""Types of the weights of an ONNX file, as options name them and reports repeat them."""

from typing import Literal

#: Lower precision than float32.
LowDtype = Literal["fp16", "int8", "int8-static"]
Dtype = Literal["fp32", LowDtype]
