"""Measures a model on the nodes of a cluster, and the links between them, into a profile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from collab.client.control import Control
from collab.client.measuring import Pace, time_codec
from collab.codec.pb import control_pb2 as pb
from collab.codec.tensors import Array
from collab.coordinator.cluster import Cluster, NodeView
from collab.coordinator.profiled_device import CODEC_BUDGET_MS, DeviceMeter, Piece, Warn
from collab.coordinator.profiled_links import LinkMeter, Pair
from collab.coordinator.profiled_model import (
    CodecTrials,
    Tensors,
    boundaries,
    model_tensors,
    places,
    splits,
)
from collab.core.ids import REQUESTER, Digest, NodeName
from collab.core.profile import (
    CodecSpeed,
    CutProfile,
    DeviceProfile,
    LinkEntry,
    Profile,
    ThreadedTimes,
)
from collab.core.profiles import check
from collab.errors import CollabError
from collab.graph import Graph, StageModel, cuts, random_inputs, split
from collab.runtime.base import Backend

HERE: Final = NodeName(REQUESTER)
"""The requester in profiles, unless it has another name; no node can be called so."""
BUSY_LOAD: Final = 0.5
"""Load average by cores above which a device is said to be busy."""
_UNKNOWN_MEMORY: Final = 1 << 40
_SAMPLES: Final = 2
"""Sets of inputs that codecs are tried on."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """What to measure and how gently."""

    threads: tuple[int, ...] = (1,)
    codecs: tuple[str, ...] = ()
    """In full spelling."""
    transports: tuple[str, ...] = ()
    """Empty: all that nodes listen by."""
    rounds: int = 4
    share: float = 0.5
    """Most of a device's time, and of a link's."""
    requester: NodeName = HERE
    """What this process is called, or the device that requests come from."""
    watts: Mapping[NodeName, float] = field(default_factory=dict)
    """Power of devices while they compute, above idle, as declared; it stands instead of what is measured."""
    seed: int = 0
    runs: int = 10
    """Of each stage in each round, fewer where they take over ``budget_ms``."""
    budget_ms: float = 20.0
    links: bool = True
    """Whether links are measured; where they are emulated they are known."""


QUICK: Final = Settings(rounds=1, share=1.0, runs=4, budget_ms=6.0)
"""A quick look, where nobody measured at leisure."""


class Profiling:
    """One measurement of one model on some nodes; `run` does it."""

    def __init__(
        self,
        cluster: Cluster,
        views: Sequence[NodeView],
        graph: Graph,
        settings: Settings,
        *,
        now: Callable[[], datetime],
        backend: Backend,
        progress: Progress = lambda done, total: None,
        warn: Warn = lambda text: None,
    ) -> None:
        self._cluster, self._views, self._graph, self._settings = cluster, views, graph, settings
        self._now, self._backend, self._progress, self._warn = now, backend, progress, warn
        self._places = places(graph)
        self._at = [self._places[1:-1], *splits(graph, self._places, settings.seed)]
        self._meter = LinkMeter(
            cluster,
            views,
            settings.requester,
            transports=settings.transports,
            rounds=2 * settings.rounds,
            share=settings.share,
        )
        self._done, self._total = 0, 1
        self._pieces: list[Piece] = []
        self._loads: dict[NodeName, float] = {}
        self._sent: dict[NodeName, list[Digest]] = {}

    async def run(self, path: Path, inputs: Sequence[Mapping[str, Array]] = ()) -> Profile:
        """Measure everything; ``inputs`` are real ones for codecs, drawn at random otherwise.

        Raises `PeerUnreachable` or `LinkLost` for a node that goes away, and what it reports.
        """
        try:
            return await self._run(path, inputs)
        finally:
            await self._clean_up()

    async def _run(self, path: Path, inputs: Sequence[Mapping[str, Array]]) -> Profile:
        graph, settings = self._graph, self._settings
        await self._send_stages()
        trials = await self._try_codecs(inputs) if settings.codecs else CodecTrials(())
        pairs = self._meter.pairs() if settings.links else []
        for kind in set(settings.transports) - {pair.kind for pair in pairs}:
            self._warn(f"no node listens by {kind}; no link of it is measured")
        self._total = (
            self._done
            + len(pairs)
            + len(self._views)
            * (len(settings.threads) * settings.rounds * len(self._pieces) + bool(settings.codecs))
        )
        # One after another: devices may share a machine, links a medium.
        links = [entry for pair in pairs for entry in await self._link(pair)]
        devices = [await self._device(view, trials.sample) for view in self._views]
        own = settings.requester not in {view.name for view in self._views}
        here = await asyncio.to_thread(self._codecs_here, trials.sample) if own else ()
        profile = Profile(
            model_sha256=graph.sha256,
            input_bytes=sum(spec.nbytes for spec in graph.inputs),
            output_bytes=sum(spec.nbytes for spec in graph.outputs),
            cuts=tuple(
                CutProfile(at=cut.at, bytes=cut.bytes, codecs=trials.at(cut.at))
                for cut in cuts(graph)
                if cut.refused is None and cut.bytes is not None
            ),
            devices=tuple(devices),
            links=tuple(links),
            requester=settings.requester,
            model=str(path),
            operators=tuple(operator.name for operator in graph.operators),
            tensors=model_tensors(graph),
            input_codecs=trials.at(0),
            output_codecs=trials.at(graph.op_count),
            requester_codecs=here,
            measured_at=self._date(),
        )
        check(profile)
        return profile

    async def _link(self, pair: Pair) -> Sequence[LinkEntry]:
        """Both directions of one link; none, and a warning, where there is no such link."""
        try:
            return await self._meter.measure(pair, self._date())
        except CollabError as error:
            self._warn(f"no link {pair.source} – {pair.peer.name} by {pair.kind}: {error}")
            return ()
        finally:
            self._step()

    def _date(self) -> str:
        return self._now().isoformat(timespec="seconds")

    def _step(self, count: int = 1) -> None:
        self._done += count
        self._progress(self._done, max(self._total, self._done))

    # --- stages --------------------------------------------------------------------------

    async def _send_stages(self) -> None:
        """Give every node the stages that it lacks; the whole model is cut anew for each split."""
        self._total = len(self._at) * len(self._views)
        pace = Pace(self._settings.share)
        known: set[tuple[int, int]] = set()
        for number, at in enumerate(self._at):
            made = await asyncio.to_thread(split, self._graph, at)
            fresh = [stage for stage in made if (stage.start, stage.stop) not in known]
            known |= {(stage.start, stage.stop) for stage in fresh}
            self._pieces += [Piece(s.start, s.stop, s.sha256, len(s.data)) for s in fresh]
            for view in self._views:
                await self._send(self._cluster.control(view.name), fresh, pace)
                if not number:
                    await self._warm_up(view)
                self._step()

    async def _send(self, control: Control, stages: Sequence[StageModel], pace: Pace) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        blobs = {Digest(stage.sha256): stage.data for stage in stages}
        missing = await control.missing(list(blobs))
        self._sent.setdefault(control.name, []).extend(missing)
        for digest, held in missing.items():
            await control.put_blob(digest, blobs[digest], held)
            if (rest := pace.rest_s(loop.time() - begun)) > 0:
                await asyncio.sleep(rest)
            begun = loop.time()

    async def _clean_up(self) -> None:
        """Take from the nodes' stores what was sent there only to be timed."""
        for name, digests in self._sent.items():
            with suppress(CollabError):  # who has gone away evicts it in time
                await self._cluster.control(name).drop_blobs(digests)

    async def _warm_up(self, view: NodeView) -> None:
        """Let a node load its runtime, and see what else it does before it works for us."""
        reply = await self._cluster.control(view.name).profile(
            pb.ProfileRequest(sha256=self._pieces[0].sha256, runs=1, threads=1, share=self._settings.share)
        )
        self._loads[view.name] = reply.load
        busy = [f"its load is {reply.load:.2f} a core"] if reply.load > BUSY_LOAD else []
        busy += [f"{reply.in_flight} requests are under way"] if reply.in_flight else []
        if busy:
            self._warn(f"node {view.name!r} is busy: {', '.join(busy)}; its times are of a busy device")

    async def _device(self, view: NodeView, sample: Tensors) -> DeviceProfile:
        settings = self._settings
        meter = DeviceMeter(
            self._cluster.control(view.name),
            self._graph,
            self._places,
            self._pieces,
            rounds=settings.rounds,
            share=settings.share,
            runs=settings.runs,
            budget_ms=settings.budget_ms,
            step=self._step,
            warn=self._warn,
        )
        costs = await meter.measure(settings.threads)
        codecs = await meter.codecs(settings.codecs, sample) if settings.codecs else ()
        memory = view.description.memory_bytes
        if not memory:
            self._warn(f"node {view.name!r} does not know its memory; it is taken for unlimited")
        first = settings.threads[0]
        return DeviceProfile(
            name=view.name,
            memory_bytes=memory or _UNKNOWN_MEMORY,
            op_ms=costs.times[first].op_ms,
            op_bytes=costs.op_bytes,
            threads=first,
            stage_ms=costs.times[first].stage_ms,
            stage_bytes=costs.stage_bytes,
            more_threads=tuple(
                ThreadedTimes(threads=n, op_ms=times.op_ms, stage_ms=times.stage_ms)
                for n, times in costs.times.items()
                if n != first
            ),
            codecs=codecs,
            watts=settings.watts.get(view.name, costs.watts),
            runtime_class=view.runtime_class,
            load=round(self._loads[view.name], 3),
            measured_at=self._date(),
            fit_error=costs.fit_error,
            run_quantiles=costs.run_quantiles,
        )

    # --- codecs --------------------------------------------------------------------------

    async def _try_codecs(self, inputs: Sequence[Mapping[str, Array]]) -> CodecTrials:
        """Run the model here, place by place, and see what codecs do to what travels."""
        graph = self._graph
        if not inputs:
            drawn = random_inputs(
                graph.inputs, quantised=graph.quantised, seed=self._settings.seed, count=_SAMPLES
            )
            names = [spec.name for spec in graph.inputs]
            inputs = [dict(zip(names, arrays, strict=True)) for arrays in drawn]
        trials = CodecTrials(self._settings.codecs)

        def work() -> None:
            for boundary in boundaries(graph, self._places, self._backend, inputs):
                trials.add(boundary)

        # In a thread: links go on saying that they are alive.
        await asyncio.to_thread(work)
        return trials

    def _codecs_here(self, sample: Tensors) -> tuple[CodecSpeed, ...]:
        return tuple(
            time_codec(name, sample, budget_ms=CODEC_BUDGET_MS, share=self._settings.share)
            for name in self._settings.codecs
        )
