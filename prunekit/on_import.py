"""Calls that wait for a module: made once the module has been imported, so that nothing is imported for them before."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Loader
else:
    Loader = object  # importlib.abc takes a fifth of the time that ``--help`` takes


def call_after(module: str, function: str) -> None:
    """Call a function without arguments, "package.module:name", right after a module is imported; now, if it has been."""
    if module in sys.modules:
        _call(function)
    else:
        sys.meta_path.insert(0, _Watch(module, function))


def _call(function: str) -> None:
    where, _, name = function.partition(":")
    getattr(importlib.import_module(where), name)()


class _Watch:
    """Finds one module by asking the other finders, and is gone then."""

    def __init__(self, module: str, function: str) -> None:
        self._module, self._function = module, function

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The module's own spec, its loader wrapped; None for every other module."""
        if fullname != self._module or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, self._function)
        return spec


class _Then(Loader):
    """Loads as another loader does, which takes its place again, and then calls."""

    def __init__(self, loader: Loader, function: str) -> None:
        self._loader, self._function = loader, function

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the other loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the other loader does; then the call."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _call(self._function)
