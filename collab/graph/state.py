"""Operators that share state, which therefore must stay in one stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from collab.graph.flat import FlatModel, FlatOperator
from collab.graph.schema import DTYPES, STATE_DTYPES

Key = tuple[str, object]


@dataclasses.dataclass(frozen=True)
class StateRange:
    """Counted operators ``[first, last]`` share `what`; no cut k with first < k <= last works."""

    first: int
    last: int
    what: str


def state_ranges(flat: FlatModel, main: int, counted: Mapping[int, int]) -> tuple[StateRange, ...]:
    """Ranges of operators that share state.

    Args:
        flat: the model.
        main: its subgraph that is cut.
        counted: from an operator's position in the file to its number among the counted ones.
    """
    subgraph = flat.subgraphs[main]
    finder = StateFinder(flat)
    users: dict[Key, list[int]] = {}
    for position, keys in enumerate(finder.keys(main)):
        for key in keys:
            if position in counted:
                users.setdefault(key, []).append(counted[position])
    for tensor in subgraph.outputs:  # state that the model also answers with: up to the last stage
        key = ("tensor", tensor)
        if key in users and subgraph.tensors[tensor].isVariable:
            users[key].append(len(counted) - 1)
    ranges = [StateRange(min(u), max(u), _describe(key, flat, main)) for key, u in users.items()]
    return tuple(sorted((r for r in ranges if r.first < r.last), key=lambda r: (r.first, r.last)))


def _describe(key: Key, flat: FlatModel, main: int) -> str:
    kind, name = key
    if kind == "tensor" and isinstance(name, int):
        raw = flat.subgraphs[main].tensors[name].name or b""
        return f"the state {raw.decode('utf-8', 'replace')!r}"
    return f"the {kind} {name!r}"


class StateFinder:
    """Collects what each operator touches, called subgraphs included."""

    def __init__(self, flat: FlatModel) -> None:
        self.flat = flat
        self._inside: dict[int, frozenset[Key]] = {}

    def keys(self, index: int) -> list[set[Key]]:
        """Keys of the state that each operator of a subgraph touches."""
        subgraph = self.flat.subgraphs[index]
        carried: dict[int, set[Key]] = {}
        found: list[set[Key]] = []
        for operator in subgraph.operators:
            keys = _own_keys(operator)
            for called in operator.subgraphs:
                keys |= self._keys_inside(called)
            for tensor in (*operator.inputs, *operator.intermediates):
                if tensor >= 0 and self._is_state(index, tensor):
                    keys |= carried.get(tensor) or {("tensor", tensor)}
            for tensor in operator.outputs:
                if tensor >= 0 and self._is_state(index, tensor):
                    if subgraph.tensors[tensor].isVariable or not keys:
                        keys.add(("tensor", tensor))
                    carried[tensor] = keys
            found.append(keys)
        return found

    def _is_state(self, subgraph: int, tensor: int) -> bool:
        table = self.flat.subgraphs[subgraph].tensors[tensor]
        return bool(table.isVariable) or DTYPES.get(table.type) in STATE_DTYPES

    def _keys_inside(self, called: int) -> frozenset[Key]:
        if called not in self._inside:
            keys = {k for operator_keys in self.keys(called) for k in operator_keys if k[0] != "tensor"}
            self._inside[called] = frozenset(keys)
        return self._inside[called]


def _own_keys(operator: FlatOperator) -> set[Key]:
    """State that an operator names by itself; the names are global to an interpreter."""
    options = operator.table.builtinOptions
    if operator.name == "VAR_HANDLE":
        container, name = (getattr(options, f, None) or b"" for f in ("container", "sharedName"))
        label = b"/".join(part for part in (container, name) if part)
        return {("variable", label.decode("utf-8", "replace"))}
    if operator.name == "HASHTABLE":
        return {("hash table", getattr(options, "tableId", 0))}
    return set()
