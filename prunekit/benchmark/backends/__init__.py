"""Registry of backends; a new one is a module, or a variant of one, and a line here."""

from prunekit.benchmark.backends.base import Backend

BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("ort", "ort", "cpu"),
        Backend("ort-cuda", "ort", "cuda", device="cuda"),
        Backend("torch", "pytorch", "eager", reads="checkpoint"),
        Backend("torch-bf16", "pytorch", "bf16", reads="checkpoint"),
        Backend("torch-compile", "pytorch", "compile", reads="checkpoint", once=True),
        Backend("torch-sdpa-fp16", "pytorch", "sdpa-fp16", reads="checkpoint", device="cuda"),
        Backend("openvino", "openvino", "fp32"),
        Backend("openvino-bf16", "openvino", "bf16"),
        Backend("openvino-int8", "openvino", "int8", once=True),
    )
}
