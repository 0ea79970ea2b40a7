"""What a model costs on one device, from the times and sizes of its stages there."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from collab.client.control import Control
from collab.codec.pb import control_pb2 as pb
from collab.coordinator.profiled_model import Tensors, working_bytes
from collab.core.profile import CodecSpeed
from collab.graph import Graph
from collab.planner.fit import (
    Floats,
    PowerSample,
    StageTimes,
    TimedRange,
    fit_memory,
    fit_power,
    fit_stages,
    prediction_error,
)

GOOD_FIT: Final = 0.1
"""Largest median error of predicted stages that needs no warning."""
CODEC_BUDGET_MS: Final = 150.0
"""Of each codec, pauses left out."""
_HAND_OVERS: Final = 40
_HAND_OVER_BUDGET_MS: Final = 200.0
_HELD_OUT: Final = 4
"""One in so many of the longer ranges is kept from a fit, to see how it predicts."""
_LEAST_SHARE_OF_MODEL: Final = 10
"""Longer ranges have this part of the model's pieces at least."""
_SHARES: Final = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
"""Of which the spread of runs is noted."""
_LONG: Final = 3
"""Stages tell of that spread that take this part of the longest at least: moments of others have little to
do with what a plan's stages meet."""
_WAITED: Final = 0.3
"""Share of its runs' time for which a device may lack a processor without a warning."""

Step = Callable[[], None]
Warn = Callable[[str], None]


class Piece(NamedTuple):
    """A stage that is timed: operators ``[start, stop)``."""

    start: int
    stop: int
    sha256: str
    bytes: int


@dataclass
class Measured:
    """What one device said of each stage with some number of threads, round by round."""

    threads: int
    runs: dict[Piece, list[tuple[Floats, Floats]]] = field(default_factory=dict)
    """Time and processor time of runs, in ms."""
    memory: dict[Piece, list[int]] = field(default_factory=dict)
    power: list[PowerSample] = field(default_factory=list)

    def add(self, piece: Piece, reply: pb.ProfileReply) -> None:
        """Take what one call for one stage said."""
        times = np.array(reply.run_ms), np.maximum(np.array(reply.cpu_ms), 1e-6)
        self.runs.setdefault(piece, []).append(times)
        self.memory.setdefault(piece, []).append(reply.memory_bytes)
        if reply.elapsed_ms > 0:
            busy, seconds = sum(reply.run_ms) / reply.elapsed_ms, reply.elapsed_ms / 1000
            self.power.append(PowerSample(busy, reply.energy_j / seconds, seconds))

    def timed(self) -> list[TimedRange]:
        """What each stage takes when nothing disturbs it."""
        return [TimedRange(piece.start, piece.stop, self._undisturbed(piece)) for piece in self.runs]

    def _undisturbed(self, piece: Piece) -> float:
        rounds = self.runs[piece]
        if self.threads > 1:  # the time of the pool's threads belongs to no run
            return float(np.quantile([np.quantile(ms, 0.25) for ms, _ in rounds], 0.25))
        # Others that share the cores make a run wait, which its processor time leaves out.
        cpu_ms = float(np.quantile([np.quantile(cpu, 0.25) for _, cpu in rounds], 0.25))
        return cpu_ms * self._slowness(piece)

    def _slowness(self, piece: Piece) -> float:
        """Time by processor time of the quietest run: above 1 where a device is held back all the time."""
        return max(1.0, min(float((ms / cpu).min()) for ms, cpu in self.runs[piece]))

    def spread(self) -> tuple[tuple[float, float], ...]:
        """Quantiles of the times of runs as multiples of their stage's median, over the longest stages."""
        timed = {piece: self._undisturbed(piece) for piece in self.runs}
        least_ms = max(timed.values()) / _LONG
        factors = []
        for piece, rounds in self.runs.items():
            if timed[piece] >= least_ms:
                ms = np.concatenate([took for took, _ in rounds])
                factors.append(ms / np.median(ms))
        found = np.quantile(np.concatenate(factors), _SHARES)
        return tuple((share, round(float(at), 4)) for share, at in zip(_SHARES, found, strict=True))

    @property
    def waited(self) -> float:
        """Share of their time in which runs stood still for others."""
        run = sum(
            float(cpu.sum()) * self._slowness(p) for p, rounds in self.runs.items() for _, cpu in rounds
        )
        total = sum(float(ms.sum()) for rounds in self.runs.values() for ms, _ in rounds)
        return max(0.0, 1.0 - run / total) if total else 0.0


@dataclass(frozen=True)
class DeviceCosts:
    """What a model costs on one device; sums of operators bound or predict any stage."""

    times: dict[int, StageTimes]
    """By number of threads."""
    op_bytes: tuple[int, ...]
    stage_bytes: int
    fit_error: float | None
    """Of the first number of threads."""
    run_quantiles: tuple[tuple[float, float], ...] = ()
    """The same."""
    watts: float | None = None
    """While it computes, above idle, where the device counts energy."""


class DeviceMeter:
    """Measures one device, which has the stages already.

    A stage gets ``runs`` runs in each of ``rounds``, fewer where they take over ``budget_ms``.
    """

    def __init__(
        self,
        control: Control,
        graph: Graph,
        between: Sequence[int],
        pieces: Sequence[Piece],
        *,
        rounds: int,
        share: float,
        runs: int = 10,
        budget_ms: float = 20.0,
        step: Step = lambda: None,
        warn: Warn = lambda text: None,
    ) -> None:
        self._control, self._graph, self._places, self._pieces = control, graph, between, pieces
        self._rounds, self._share, self._step, self._warn = rounds, share, step, warn
        self._runs, self._budget_ms = runs, budget_ms

    async def measure(self, threads: Sequence[int]) -> DeviceCosts:
        """Times with each number of threads, memory with the first; raises what the node reports."""
        times: dict[int, StageTimes] = {}
        errors: list[float | None] = []
        memory: tuple[tuple[int, ...], int] | None = None
        watts: float | None = None
        spread: tuple[tuple[float, float], ...] = ()
        for count in threads:
            measured = await self._time(count)
            fitted, error = self._fit(measured.timed())
            self._judge(count, measured, error)
            stage_ms = fitted.stage_ms + await self._hand_over(measured, count)
            # Nanoseconds are enough for people to read and for planners.
            times[count] = StageTimes(tuple(round(ms, 6) for ms in fitted.op_ms), round(stage_ms, 6))
            errors.append(error)
            if memory is None:
                memory, watts = self._memory(measured), fit_power(measured.power)
                spread = measured.spread()
        assert memory is not None
        error = None if errors[0] is None else round(errors[0], 4)
        return DeviceCosts(times, *memory, error, spread, None if watts is None else round(watts, 3))

    async def codecs(self, names: Sequence[str], sample: Tensors) -> tuple[CodecSpeed, ...]:
        """How fast the device encodes and decodes the model's own tensors."""
        request = pb.ProfileCodecsRequest(codecs=names, budget_ms=CODEC_BUDGET_MS, share=self._share)
        for spec, array in sample:
            request.tensors.add(shape=spec.shape, dtype=spec.dtype, data=array.tobytes())
        speeds = await self._control.profile_codecs(request)
        self._step()
        return tuple(speeds)

    def _judge(self, threads: int, measured: Measured, error: float | None) -> None:
        """Say what makes the times doubtful."""
        node = f"node {self._control.name!r}"
        if threads == 1 and measured.waited > _WAITED:
            self._warn(
                f"{node}: its runs stood still for {measured.waited:.0%} of their time; others use its "
                "processor, or a limit holds it back, and plans will be slower than predicted"
            )
        if error is not None and error > GOOD_FIT:
            self._warn(
                f"{node}: half of the times predicted with {threads} threads are over {error:.0%} off; "
                "measure again when it is quiet, or with more --rounds"
            )

    async def _time(self, threads: int) -> Measured:
        """All stages in rounds, so that a busy moment falls on all alike."""
        measured = Measured(threads)
        for _ in range(self._rounds):
            for piece in self._pieces:
                request = pb.ProfileRequest(
                    sha256=piece.sha256,
                    runs=self._runs,
                    threads=threads,
                    budget_ms=self._budget_ms,
                    share=self._share,
                )
                measured.add(piece, await self._control.profile(request))
                self._step()
        return measured

    def _fit(self, timed: Sequence[TimedRange]) -> tuple[StageTimes, float | None]:
        """Times of operators, and how well a fit predicts ranges of a plan's size that it has not seen."""
        index = {place: i for i, place in enumerate(self._places)}
        least = max(2, (len(index) - 1) / _LEAST_SHARE_OF_MODEL)
        longer = [
            e
            for e in timed
            if index[e.stop] - index[e.start] >= least and e.stop - e.start < self._graph.op_count
        ]
        # Every fourth by its length: short and long ones alike.
        held = set(sorted(longer, key=lambda e: (e.stop - e.start, e.start))[_HELD_OUT // 2 :: _HELD_OUT])
        error = None
        if held:
            seen = [e for e in timed if e not in held]
            error = prediction_error(fit_stages(self._places, seen), sorted(held))
        return fit_stages(self._places, timed), error

    async def _hand_over(self, measured: Measured, threads: int) -> float:
        """What the way from the event loop through a worker and back takes, in ms."""
        quickest = min(measured.timed(), key=lambda e: e.ms)
        piece = next(p for p in self._pieces if (p.start, p.stop) == (quickest.start, quickest.stop))
        request = pb.ProfileRequest(
            sha256=piece.sha256,
            runs=_HAND_OVERS,
            threads=threads,
            budget_ms=_HAND_OVER_BUDGET_MS,
            share=self._share,
            hand_over=True,
        )
        return statistics.median((await self._control.profile(request)).hand_over_ms)

    def _memory(self, measured: Measured) -> tuple[tuple[int, ...], int]:
        weights: list[int] = []
        sizes = {(p.start, p.stop): p.bytes for p in self._pieces}
        for start, stop in pairwise(self._places):
            weights += [sizes[start, stop] // (stop - start)] * (stop - start)
        taken = [(p.start, p.stop, int(statistics.median(m))) for p, m in measured.memory.items()]
        known = taken if any(size for _, _, size in taken) else []
        return fit_memory(weights, working_bytes(self._graph), known)
