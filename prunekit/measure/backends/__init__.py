"""The ways to run a model; a new one is a module, or a variant of one, and a line here."""

from prunekit.measure.backends.base import Backend

BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("ort", "ort", "cpu"),
        Backend("ort-cuda", "ort", "cuda", device="cuda"),
    )
}
