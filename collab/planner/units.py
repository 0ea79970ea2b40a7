"""Stages of a pipeline before they are placed, and the edges that a placement gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from collab.core.ids import REQUESTER, NodeName, StageId


@dataclass(frozen=True)
class Unit:
    """A stage: what it reads and makes, by the plan's tensor names."""

    id: StageId
    reads: tuple[str, ...]
    makes: tuple[str, ...]


@dataclass(frozen=True)
class Wiring:
    """Stages in an order in which each comes after those it reads from, and what the plan takes and gives."""

    units: tuple[Unit, ...]
    sizes: Mapping[str, int]
    """Bytes of every tensor."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    """All of them reach the last unit."""


class Way(NamedTuple):
    """Tensors that go from one stage, or the requester, to another."""

    source: StageId
    target: StageId
    tensors: tuple[str, ...]


Placement = Mapping[StageId, tuple[NodeName, ...]]


def ways(wiring: Wiring, placement: Placement) -> list[Way]:
    """The edges of a placed pipeline.

    A tensor goes straight from who made it to who reads it, but once to a node: a stage that
    runs after another one on the same node has what that received from it.
    """
    makers = {name: unit.id for unit in wiring.units for name in unit.makes}
    before = _before(wiring, makers)
    got: dict[str, list[StageId]] = {}
    found: dict[tuple[StageId, StageId], list[str]] = {}
    last = wiring.units[-1]
    for unit in wiring.units:
        wanted = dict.fromkeys(unit.reads)
        if unit is last:
            wanted |= dict.fromkeys(name for name in wiring.outputs if name not in unit.makes)
        for name in wanted:
            source = makers.get(name, REQUESTER)
            place = placement[unit.id]
            if len(place) == 1 and placement.get(source) != place:
                held = (at for at in got.get(name, ()) if placement[at] == place and at in before[unit.id])
                source = next(held, source)
            got.setdefault(name, []).append(unit.id)
            found.setdefault((source, unit.id), []).append(name)
    found[last.id, REQUESTER] = list(wiring.outputs)
    return [Way(*ends, tuple(tensors)) for ends, tensors in found.items()]


def _before(wiring: Wiring, makers: Mapping[str, StageId]) -> dict[StageId, set[StageId]]:
    """For each stage all that have ended when it begins, wherever they are."""
    found: dict[StageId, set[StageId]] = {}
    for unit in wiring.units:
        near = {makers[name] for name in unit.reads if name in makers}
        found[unit.id] = near.union(*(found[one] for one in near))
    return found
