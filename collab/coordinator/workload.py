"""A closed-loop load over a deployed plan, its answers compared, its times summed up."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from collab.client.runner import PRIMARY, Result
from collab.codec.edges import Coded
from collab.codec.tensors import Array
from collab.core.codecs import RAW
from collab.core.ids import REQUESTER, Epoch
from collab.core.plan import Plan
from collab.core.tensor import TensorSpec
from collab.errors import CollabError, RequestError, TensorError
from collab.transport.aio import BaseExceptionGroup, TaskGroup

Request = Mapping[str, Array]
Progress = Callable[[int, int], None]


class Runs(Protocol):
    """What answers requests: a client of one epoch, or one that follows its plan."""

    async def run(self, inputs: Request, deadline_s: float) -> Result:
        """One inference."""
        ...


_PERCENTILES = (("p50", 50), ("p95", 95), ("p99", 99))
_MAX_ERRORS = 20
HERE = -1
"""In place of a stage's index: the requester."""


def requests_of(specs: Sequence[TensorSpec], arrays: Mapping[str, Array], what: str) -> list[Request]:
    """Cut arrays into requests: a tensor's own shape is one, one more leading axis that many.

    Raises `TensorError` for wrong names, dtypes, ranks and shapes, or different counts.
    """
    known = {spec.name: spec for spec in specs}
    for name in arrays:
        if name not in known:
            raise TensorError(
                f"{what} {name!r}: the model has no such tensor; it has {', '.join(map(repr, known))}"
            )
    counts: dict[str, int | None] = {}
    for name, spec in known.items():
        if name not in arrays:
            raise TensorError(f"{what} {name!r} {spec.dtype}{list(spec.shape)} is missing")
        array = arrays[name]
        if array.dtype.name != spec.dtype:
            raise TensorError(
                f"{what} {name!r}: dtype {array.dtype.name}, expected {spec.dtype}; use .astype()"
            )
        if array.shape == spec.shape:
            counts[name] = None
        elif array.shape[1:] == spec.shape and array.ndim == len(spec.shape) + 1:
            counts[name] = len(array)
        else:
            raise TensorError(
                f"{what} {name!r}: shape {list(array.shape)}, expected {list(spec.shape)} for one request "
                f"or {['N', *spec.shape]} for several".replace("'N'", "N")
            )
    if len(set(counts.values())) != 1:
        raise TensorError(f"{what}: tensors hold different numbers of requests: {counts}")
    count = next(iter(counts.values()))
    if count is None:
        return [{name: np.ascontiguousarray(arrays[name]) for name in known}]
    return [{name: np.ascontiguousarray(arrays[name][i]) for name in known} for i in range(count)]


@dataclass(frozen=True)
class Comparison:
    """How answers are compared with what was expected."""

    exact: bool
    atol: float
    rtol: float

    @property
    def name(self) -> str:
        """``exact`` or ``close``."""
        return "exact" if self.exact else "close"

    @property
    def tolerance(self) -> dict[str, float] | None:
        """How far answers may be; None where their bytes must be the same."""
        return None if self.exact else {"atol": self.atol, "rtol": self.rtol}

    def agrees(self, got: Mapping[str, Array], expected: Request) -> bool:
        """Whether every expected tensor is there: same bytes, or within the tolerance."""
        for name, want in expected.items():
            have = got.get(name)
            if have is None or have.shape != want.shape or have.dtype != want.dtype:
                return False
            if self.exact and have.tobytes() != want.tobytes():
                return False
            if not self.exact and not np.allclose(have, want, atol=self.atol, rtol=self.rtol, equal_nan=True):
                return False
        return True


@dataclass
class Report:
    """What a load gave; times in ms."""

    requests: int = 0
    failed: int = 0
    wrong: int = 0
    compared: str | None = None
    tolerance: dict[str, float] | None = None
    """What ``close`` meant."""
    errors: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    paths: Counter[str] = field(default_factory=Counter)
    """Answers by the nodes that they took, with the plan's name where it was not the primary."""
    via: Counter[str] = field(default_factory=Counter)
    """Answers by who gave them, as `Result.via` says; figures of hops are of the primary's alone."""
    parts_ms: dict[int, list[tuple[float, float, float, float]]] = field(default_factory=dict)
    """By stage index: queue, decode, compute, encode of each answer."""
    wire_ms: list[float] = field(default_factory=list)
    here_ms: list[tuple[float, float]] = field(default_factory=list)
    """Of each answer: decoding and encoding at the requester."""
    coded: dict[int, Coded] = field(default_factory=dict)
    """By stage index, `HERE` for the requester: what codecs did to the tensors sent, all answers together."""
    epoch: Epoch = Epoch(0)
    """The latest that answered; figures of hops are of its answers alone."""
    epochs: int = 0
    """How many epochs answered."""
    epoch_latencies_ms: list[float] = field(default_factory=list)
    """Of the latest epoch's answers."""

    @classmethod
    def of(cls, comparison: Comparison | None) -> Report:
        """An empty one that says how answers are compared, if they are."""
        made = cls()
        made.judge(comparison)
        return made

    def judge(self, comparison: Comparison | None) -> None:
        """Say how answers are compared."""
        if comparison is not None:
            self.compared, self.tolerance = comparison.name, comparison.tolerance

    def add(self, result: Result, agrees: bool) -> None:
        """Count one answer."""
        self.requests += 1
        self.wrong += not agrees
        self.latencies_ms.append(result.total_ms)
        self.via[result.via] += 1
        nodes = " -> ".join(result.path)
        if result.via != PRIMARY:
            self.paths[f"{result.via}: {nodes}" if nodes else result.via] += 1
            return
        self.paths[nodes] += 1
        if result.epoch > self.epoch:
            self._begin(result.epoch)
        if result.epoch == self.epoch:
            self._add_hops(result)

    def _begin(self, epoch: Epoch) -> None:
        """Another plan answers, whose stages are others."""
        self.epoch, self.epochs = epoch, self.epochs + 1
        for figures in (self.parts_ms, self.coded, self.wire_ms, self.here_ms, self.epoch_latencies_ms):
            figures.clear()

    def _add_hops(self, result: Result) -> None:
        self.epoch_latencies_ms.append(result.total_ms)
        for hop in result.hops:
            parts = (hop.queue_us / 1e3, hop.decode_us / 1e3, hop.compute_us / 1e3, hop.encode_us / 1e3)
            self.parts_ms.setdefault(hop.stage, []).append(parts)
            sent = Coded(hop.raw_bytes, hop.sent_bytes, hop.codec_error, hop.codec_fallbacks)
            self.coded[hop.stage] = self.coded.get(hop.stage, Coded()) + sent
        self.here_ms.append((result.decode_ms, result.encode_ms))
        self.coded[HERE] = self.coded.get(HERE, Coded()) + result.coded
        self.wire_ms.append(result.wire_ms)

    def fail(self, error: CollabError) -> None:
        """Count one request that got no answer."""
        self.requests += 1
        self.failed += 1
        text = str(error)
        if text in self.errors or len(self.errors) < _MAX_ERRORS:
            self.errors[text] += 1

    @property
    def throughput_rps(self) -> float:
        """Answers a second over the whole load."""
        return (self.requests - self.failed) / self.seconds if self.seconds else 0.0

    def percentiles(self) -> dict[str, float]:
        """p50, p95 and p99 of the latency; empty if nothing was answered."""
        if not self.latencies_ms:
            return {}
        return {name: round(float(np.percentile(self.latencies_ms, q)), 3) for name, q in _PERCENTILES}

    def hops(self, plan: Plan) -> list[dict[str, Any]]:
        """Medians per stage, of the requester where it decodes or encodes, and of the wire (estimated).

        Bytes are means; the error is the largest that was measured.
        """
        names = ("queue_ms", "decode_ms", "compute_ms", "encode_ms")
        rows: list[dict[str, Any]] = []
        for index, parts in sorted(self.parts_ms.items()):
            medians = np.median(np.array(parts), axis=0)
            stage = plan.stages[index]
            row = {"stage": stage.id, "nodes": list(stage.nodes)}
            times = {name: round(float(value), 3) for name, value in zip(names, medians, strict=True)}
            rows.append(row | times | self._codes(index, len(parts)))
        if self.here_ms and any(
            edge.codec != RAW for edge in plan.edges if REQUESTER in (edge.source, edge.target)
        ):
            decode_ms, encode_ms = (
                round(float(value), 3) for value in np.median(np.array(self.here_ms), axis=0)
            )
            times = {"decode_ms": decode_ms, "encode_ms": encode_ms}
            rows.append({"stage": REQUESTER} | times | self._codes(HERE, len(self.here_ms)))
        if self.wire_ms:
            rows.append(
                {"stage": "wire", "estimated": True, "wire_ms": round(float(np.median(self.wire_ms)), 3)}
            )
        return rows

    def _codes(self, index: int, answers: int) -> dict[str, Any]:
        """What codecs did to the tensors sent by a stage, or by the requester."""
        coded = self.coded[index]
        row = {
            "raw_bytes": round(coded.raw_bytes / answers),
            "sent_bytes": round(coded.sent_bytes / answers),
            "ratio": round(coded.raw_bytes / coded.sent_bytes, 3) if coded.sent_bytes else None,
            "codec_fallbacks": coded.fallbacks,
        }
        return row if coded.error is None else row | {"codec_error": coded.error}

    def to_json(self, plan: Plan) -> dict[str, Any]:
        """As ``collab run --json`` prints it."""
        return {
            "requests": self.requests,
            "failed": self.failed,
            "wrong": self.wrong,
            "compared": self.compared,
            "tolerance": self.tolerance,
            "latency_ms": self.percentiles(),
            "throughput_rps": round(self.throughput_rps, 2),
            "hops": self.hops(plan),
            "paths": dict(self.paths),
            "errors": dict(self.errors),
        }


def _now(comparison: Comparison | Callable[[], Comparison] | None) -> Comparison | None:
    return comparison() if callable(comparison) else comparison


async def load(
    client: Runs,
    requests: Sequence[Request],
    *,
    repeat: int = 1,
    concurrency: int = 1,
    deadline_s: float = 30.0,
    expected: Sequence[Request] | None = None,
    comparison: Comparison | Callable[[], Comparison] | None = None,
    progress: Progress | None = None,
    keep: bool = False,
) -> tuple[Report, list[Mapping[str, Array] | None]]:
    """Run every request ``repeat`` times, ``concurrency`` at a time.

    A ``comparison`` that may change while the plan moves is asked for with each answer.
    Returns the report and, with ``keep``, the first round's answers in order (None for one
    that failed).
    """
    total = len(requests) * repeat

    report = Report.of(_now(comparison) if expected is not None else None)
    kept: list[Mapping[str, Array] | None] = [None] * (len(requests) if keep else 0)
    numbers: Iterator[int] = iter(range(total))

    async def worker() -> None:
        for number in numbers:
            index = number % len(requests)
            try:
                result = await client.run(requests[index], deadline_s)
                if result.absent is not None:
                    raise RequestError(f"the plan gave no answer: {result.absent or 'a guard kept it back'}")
            except TensorError:
                raise
            except CollabError as error:
                report.fail(error)
            else:
                judge = _now(comparison)
                right = expected is None or judge is None or judge.agrees(result.outputs, expected[index])
                report.add(result, right)
                if keep and number < len(requests):
                    kept[number] = result.outputs
            if progress:
                progress(report.requests, total)

    start = time.perf_counter()
    try:
        async with TaskGroup() as group:
            for _ in range(min(concurrency, total)):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    report.seconds = time.perf_counter() - start
    report.judge(_now(comparison) if expected is not None else None)
    return report, kept
