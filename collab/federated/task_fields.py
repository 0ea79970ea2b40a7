"""Converting a task's tree to its types; what is misspelt is named with what is nearest to it."""

from __future__ import annotations

import dataclasses
import types
from difflib import get_close_matches
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from collab.errors import ConfigError

T = TypeVar("T")


def converted(tree: Any, into: type[T]) -> T:
    """A frozen type from parsed YAML; raises `ConfigError` that names the field and the remedy."""
    if not isinstance(tree, dict):
        raise ConfigError("task: is no mapping; write name, model and rounds")
    _check_names(tree, into, "")
    try:
        return msgspec.convert(tree, into)
    except (msgspec.ValidationError, RecursionError) as error:
        what, mark, where = str(error).rpartition(" - at `")
        path = where.rstrip("`").removeprefix("$").removeprefix(".") if mark else ""
        raise ConfigError(f"{path or 'task'}: {what if mark else error}") from error


def _check_names(tree: Any, kind: Any, path: str) -> None:
    """Refuse unknown fields, also those of dataclasses, which msgspec passes over."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = _chosen(tree, get_args(kind))
    hints = _fields(kind)
    if not hints or not isinstance(tree, dict):
        return
    for name, value in tree.items():
        where = f"{path}.{name}" if path else str(name)
        if name not in hints:
            near = get_close_matches(str(name), hints, 1) or sorted(hints)
            raise ConfigError(f"{where}: there is no such field; try {' or '.join(near[:12])}")
        _check_names(value, hints[name], where)


def _chosen(tree: Any, kinds: tuple[Any, ...]) -> Any:
    """Which member of a union a mapping means: the one of its tag, or the only one with fields."""
    mappings = [kind for kind in kinds if _fields(kind)]
    for kind in mappings:
        config = getattr(kind, "__struct_config__", None)
        if config is None or config.tag is None or not isinstance(tree, dict):
            continue
        if tree.get(config.tag_field) == config.tag:
            return kind
    return mappings[0] if len(mappings) == 1 else None


def _fields(kind: Any) -> dict[str, Any]:
    """Names and types of a struct's or a dataclass's fields; its tag is one."""
    if not isinstance(kind, type):
        return {}
    if issubclass(kind, msgspec.Struct):
        config = kind.__struct_config__
        tag = {config.tag_field: str} if config.tag_field is not None else {}
        return tag | get_type_hints(kind)
    if dataclasses.is_dataclass(kind):
        return get_type_hints(kind)
    return {}
