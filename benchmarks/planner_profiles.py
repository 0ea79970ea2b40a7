"""Profiles to plan with: random clusters, random graphs on two sites, and real models."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

from collab.coordinator.planning import allowed_cuts
from collab.core.ids import NodeName
from collab.core.profile import CutProfile, DeviceProfile, LinkEntry, ModelTensor, Profile
from collab.graph import Graph
from collab.planner.orders import in_order

PLENTY = 1 << 40
Rates = Mapping[tuple[str, str], tuple[float, float]]
"""Delay one way in ms and Mbit/s from one end to another."""

LINKS: Mapping[str, Rates] = {
    "LTE": {("near", "far"): (11, 34), ("far", "near"): (11, 82)},
    "5G low band": {("near", "far"): (7.5, 57), ("far", "near"): (7.5, 123)},
    "5G mid band": {("near", "far"): (10, 90), ("far", "near"): (10, 1026)},
    "Wi-Fi 6": {("near", "far"): (2, 474), ("far", "near"): (2, 474)},
}
"""Published measurements: SIGCOMM'21 5G artifact, MSIT/KTOA 2024."""


def cluster(seed: int, cuts: int, devices: int, kinds: int | None = None) -> Profile:
    """A chain of operators on a cluster, as random as `seed`.

    Devices differ by up to 8 times and links by up to 50 times; of `kinds` types, devices of
    one type are alike and links depend on the types alone.  Half of the devices are too small
    for the whole model.
    """
    draw = random.Random(seed)
    ops = cuts + 1
    work = [10 ** draw.uniform(-1.5, 0.5) for _ in range(ops)]
    size = [draw.randint(1000, 200_000) for _ in range(ops)]
    of_kind = []
    for _ in range(kinds or devices):
        speed, whole = draw.uniform(1, 8), sum(size)
        memory = draw.choice((2 * whole, int(whole * draw.uniform(0.3, 0.9))))
        of_kind.append((memory, tuple(w * speed * draw.uniform(0.7, 1.4) for w in work)))
    names = [NodeName(f"d{i}") for i in range(devices)]
    kind = {name: i % len(of_kind) for i, name in enumerate(names)} | {NodeName("requester"): -1}
    rates = {
        pair: (draw.uniform(0.1, 3), 10 ** draw.uniform(1, 2.7))
        for pair in itertools.product(sorted(set(kind.values())), repeat=2)
    }
    activations = [int(10 ** draw.uniform(3.5, 5.5)) for _ in range(ops + 1)]
    return Profile(
        model_sha256="0" * 64,
        input_bytes=activations[0],
        output_bytes=4000,
        requester=NodeName("requester"),
        cuts=tuple(CutProfile(at=k, bytes=activations[k]) for k in range(1, ops)),
        devices=tuple(
            DeviceProfile(
                name=name,
                memory_bytes=of_kind[kind[name]][0],
                op_ms=of_kind[kind[name]][1],
                op_bytes=tuple(size),
                stage_ms=0.2,
            )
            for name in names
        ),
        links=tuple(
            LinkEntry(source=a, target=b, latency_ms=delay, mbit_s=rate)
            for a, b in itertools.permutations(kind, 2)
            for delay, rate in [rates[kind[a], kind[b]]]
        ),
    )


def two_sites(
    tensors: Sequence[ModelTensor],
    times: Mapping[str, Sequence[float]],
    rates: Rates,
    cuts: Sequence[int] | None = None,
) -> Profile:
    """Any graph on devices named in `times`; the first gives the input, and memory is plenty.

    The faster a device the more it has, as splits by memory suppose.
    """
    ops = len(next(iter(times.values())))
    plain = Profile(
        model_sha256="0" * 64,
        input_bytes=sum(t.bytes for t in tensors if t.made < 0),
        output_bytes=sum(t.bytes for t in tensors if t.output),
        requester=NodeName(next(iter(times))),
        cuts=tuple(CutProfile(at=k, bytes=0) for k in (range(1, ops) if cuts is None else cuts)),
        devices=tuple(
            DeviceProfile(
                name=NodeName(name),
                memory_bytes=int(PLENTY / max(sum(op_ms), 1)),
                op_ms=tuple(op_ms),
                op_bytes=(0,) * ops,
                stage_ms=0.2,
            )
            for name, op_ms in times.items()
        ),
        links=tuple(
            LinkEntry(source=NodeName(a), target=NodeName(b), latency_ms=delay, mbit_s=rate)
            for (a, b), (delay, rate) in rates.items()
        ),
        tensors=tuple(tensors),
    )
    return in_order(plain, range(ops), model_sha256=plain.model_sha256)


def branched(seed: int, ops: int, branches: int = 3) -> Profile:
    """Branches whose operators take turns, joined at the end; each suits one of two sites better."""
    draw = random.Random(seed)
    step = ops - 1
    readers: dict[int, list[int]] = {-1: list(range(branches))}
    for k in range(step):
        readers[k] = [k + branches if k + branches < step else step]
    readers[step] = []
    tensors = [
        ModelTensor(
            name=f"t{k}",
            bytes=int(10 ** draw.uniform(3, 5.3)),
            made=k,
            readers=tuple(read),
            output=k == step,
        )
        for k, read in readers.items()
    ]
    likes = [draw.uniform(0.2, 10) for _ in range(branches)]
    near = [10 ** draw.uniform(-1, 0.7) for _ in range(ops)]
    far = [ms / likes[k % branches] for k, ms in enumerate(near)]
    return two_sites(tensors, {"near": near, "far": far}, draw.choice(list(LINKS.values())))


def graph_tensors(graph: Graph) -> list[ModelTensor]:
    """What flows between the counted operators of a model."""
    operators = graph.flat.subgraphs[graph.main].operators
    readers: dict[int, list[int]] = {}
    for k, position in enumerate(graph.flow.counted):
        for tensor in set(operators[position].inputs):
            readers.setdefault(tensor, []).append(k)
    return [
        ModelTensor(
            name=value.spec.name,
            bytes=value.spec.nbytes,
            made=value.made - 1,
            readers=tuple(readers.get(value.tensor, ())),
            output=value.last == graph.op_count,
        )
        for value in graph.flow.values.values()
        if value.barred is None
    ]


def real(graph: Graph, op_ms: Sequence[float], slower: Mapping[str, float], rates: Rates) -> Profile:
    """A model with times measured here, on devices that are so many times slower."""
    times = {name: [ms * factor for ms in op_ms] for name, factor in slower.items()}
    return two_sites(graph_tensors(graph), times, rates, list(allowed_cuts(graph)))
