"""Post-import hooks: functions that are called once a module has been imported, without importing it."""

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
    Loader = object  # importing importlib.abc takes a fifth of the time of ``--help``


def call_after(module: str, function: str) -> None:
    """Call a function without arguments, "package.module:name", right after a module is imported; now, if it has been."""
    if module in sys.modules:
        _call(function)
    else:
        sys.meta_path.insert(0, _HookFinder(module, function))


def _call(function: str) -> None:
    module, _, name = function.partition(":")
    getattr(importlib.import_module(module), name)()


class _HookFinder:
    """Finder of one module, which asks the other finders and removes itself."""

    def __init__(self, module: str, function: str) -> None:
        self._module, self._function = module, function

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the module's own spec with a wrapped loader; None for every other module."""
        if fullname != self._module or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _HookLoader(spec.loader, self._function)
        return spec


class _HookLoader(Loader):
    """Loader that delegates to another one, reinstates it, and then calls the function."""

    def __init__(self, loader: Loader, function: str) -> None:
        self._loader, self._function = loader, function

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Delegate to the wrapped loader."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Reinstate the wrapped loader, delegate to it, and call the function."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _call(self._function)
