"""Tables of fields, from the frozen types that read files and settings."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from scripts.site.markdown import code, prose, table


def said_of_fields(kind: type) -> dict[str, str]:
    """What stands below each field in the source, of the bases too."""
    said: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        if not issubclass(cls, msgspec.Struct) or cls is msgspec.Struct:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(tree, ast.ClassDef)
        name = ""
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name = node.target.id
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
                said[name] = str(node.value.value)
                name = ""
    return said


def type_name(kind: Any) -> str:
    """A type as a reader of a YAML or TOML file thinks of it."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(str(value) for value in inner)
    if origin in (Union, types.UnionType):
        known = [type_name(part) for part in inner if part is not type(None)]
        return " or ".join([*dict.fromkeys(known), *(["nothing"] if type(None) in inner else [])])
    if origin in (tuple, list, frozenset, set):
        return f"list of {type_name(inner[0])}"
    if (origin is not None and isinstance(origin, type) and issubclass(origin, dict)) or kind is dict:
        return f"table of {type_name(inner[1])}" if inner else "table"
    if getattr(origin, "__name__", "") == "Mapping":
        return f"table of {type_name(inner[1])}"
    if origin is not None and inner:
        return type_name(inner[0])
    kind = getattr(kind, "__supertype__", kind)
    names = {str: "text", bool: "true or false", int: "whole number", float: "number", Any: "anything"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def default_of(field: Any) -> str:
    """The default as it would be written; nothing where one must be given."""
    if field.default_factory is not msgspec.NODEFAULT:
        made = field.default_factory()
    elif field.default is not msgspec.NODEFAULT:
        made = field.default
    else:
        return "needed"
    if made is None or isinstance(made, msgspec.Struct) or made in ((), {}, [], ""):
        return ""
    if isinstance(made, tuple):
        made = list(made)
    return str(made).lower() if isinstance(made, bool) else str(made)


def _default(field: Any) -> str:
    made = default_of(field)
    return made if made == "needed" else code(made)


def fields_table(kind: type[msgspec.Struct]) -> str:
    """Name, type, default and meaning of every field."""
    hints, said = get_type_hints(kind), said_of_fields(kind)
    rows = [
        (
            f"`{field.encode_name}`",
            type_name(hints[field.name]),
            _default(field),
            prose(said.get(field.name, "")),
        )
        for field in msgspec.structs.fields(kind)
    ]
    return table(("field", "type", "default", "meaning"), rows)


def structs_in(kind: Any) -> Iterator[type[msgspec.Struct]]:
    """Types of a file's inner tables, each named in the type of a field."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
    for inner in get_args(kind):
        yield from structs_in(inner)


def family(kind: type[msgspec.Struct], known: set[type] | None = None) -> Iterator[type[msgspec.Struct]]:
    """A type and all that its fields may hold, each once, outer before inner."""
    known = set() if known is None else known
    if kind in known:
        return
    known.add(kind)
    yield kind
    for hint in get_type_hints(kind).values():
        for inner in structs_in(hint):
            yield from family(inner, known)


def struct_section(kind: type[msgspec.Struct], level: int = 3) -> str:
    """A type with its fields; of a choice, by what it is told apart."""
    config = kind.__struct_config__
    tag = f"`{config.tag_field}: {config.tag}`. " if config.tag else ""
    about = prose(inspect.getdoc(kind) or "")
    parts = [f"{'#' * level} {kind.__name__}", tag + about]
    if msgspec.structs.fields(kind):
        parts.append(fields_table(kind))
    return "\n\n".join(parts)


def file_section(title: str, intro: str, kind: type[msgspec.Struct]) -> str:
    """A kind of file with all types that it is made of."""
    parts = [f"## {title}", intro, *(struct_section(each) for each in family(kind))]
    return "\n\n".join(parts)
