"""Reading and writing of YAML; a module of its own, since PyYAML takes longer to import than ``--help`` may take."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from prunekit.validation.escape import reason
from prunekit.validation.limits import DEPTH
from prunekit.validation.reading import ReadError, finite, first_duplicate


class _Plain(yaml.SafeLoader):
    """The core schema of YAML 1.2: null, true and false, whole numbers, numbers; anything else is text.

    YAML 1.1 would read ``no`` as false, ``1_0`` as 10, ``1:30`` as 90 and ``2001-01-01`` as a date.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - filled below, as PyYAML asks

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        duplicate = first_duplicate(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if duplicate is not None:
            raise ReadError(f"the key {duplicate[:40]!r} comes twice")
        return super().construct_mapping(node, deep)


_CORE = {
    "null": (r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    "bool": (r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    "int": (r"[-+]?[0-9]+", list("-+0123456789")),
    "float": (r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
}
for _name, (_pattern, _first) in _CORE.items():
    _Plain.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"{_pattern}\Z", re.ASCII), _first)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(node.value)


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return finite(node.value)


_Plain.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Plain.add_constructor("tag:yaml.org,2002:float", _construct_float)


def parse_yaml(text: str) -> Any:
    """Parse YAML of the core schema, nested at most `DEPTH` deep, without anchors, which can make a small file large."""
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Plain):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                raise ReadError("anchors and aliases (& and *) are not read")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH:
                raise ReadError(f"its values nest more than {DEPTH} deep")
        return yaml.load(text, Loader=_Plain)
    except yaml.YAMLError as error:
        raise ReadError(f"it is not YAML: {reason(error)}") from None
    except ReadError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        # What PyYAML's constructors raise on the value of an explicit tag, `!!int abc`.
        raise ReadError(f"a value does not fit its tag: {reason(error, 100)}") from None


def front_matter(fields: dict[str, object]) -> str:
    """Return the YAML block at the top of a Markdown file."""
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, default_flow_style=None, width=2**16)}---"
