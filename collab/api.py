"""The Python API: plan, deploy and run from a program or a notebook.

::

    async with collab.Cluster.connect(peers=["127.0.0.1:7070", "127.0.0.1:7071"]) as cluster:
        plan = await cluster.plan("model.tflite")
        await cluster.deploy(plan)
        answer = await cluster.run(plan, {"input": x})

`BlockingCluster` has the same methods without ``await``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from collab.assembly import build_cluster, load_identity
from collab.client.follow import Follower, takes_the_place
from collab.client.local import LocalModel
from collab.client.runner import DEFAULT_DEADLINE_S, Result
from collab.codec.tensors import Array
from collab.coordinator import choosing, planning
from collab.coordinator import cluster as views
from collab.coordinator.deploy import Deployment, deploy, undeploy
from collab.coordinator.judging import Judgement, judge
from collab.coordinator.profiling import QUICK, Profiling, Settings
from collab.coordinator.whole import local_model
from collab.core.ids import NodeName, PlanName, check_name
from collab.core.plan import Plan
from collab.core.profile import Profile
from collab.core.profiles import check_model
from collab.core.token import Priority
from collab.errors import CollabError, NotLoaded, PeerError
from collab.graph import Graph
from collab.planner.chains import Wants
from collab.runtime.litert import LiteRT

log = logging.getLogger("collab.api")

T = TypeVar("T")


class Cluster:
    """Nodes reached from this process; made by `connect`."""

    def __init__(self, cluster: views.Cluster, names: Sequence[NodeName], credits: int) -> None:
        self._cluster = cluster
        self._names = list(names)
        self._credits = credits
        self._clients: dict[tuple[int, str], tuple[Plan, Follower, LocalModel | None]] = {}
        """By the plan's identity: computing its digest for every request would cost more than sending one."""
        self._opening = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        peers: Sequence[str],
        *,
        credits: int = 16,
        identity: str | Path | None = None,
        insecure_networks: bool = False,
    ) -> AsyncIterator[Cluster]:
        """Dial every peer (``HOST:PORT``); all must answer.

        ``credits`` bounds the requests that this process has under way on a plan.
        ``identity`` is a directory as ``collab cluster join`` makes it.  Raises
        `PeerUnreachable`, or `Refused` off loopback without an identity or
        ``insecure_networks``, and by peers that do not take the identity.
        """
        security = await asyncio.to_thread(load_identity, identity)
        async with build_cluster(insecure_networks=insecure_networks, security=security) as cluster:
            made = cls(cluster, await cluster.reach(peers), credits)
            try:
                yield made
            finally:
                await made._close_local()

    async def nodes(self) -> dict[NodeName, views.NodeView]:
        """The nodes as they describe themselves, by name."""
        return await self._cluster.describe(self._names)

    async def profile(self, model: str | Path, settings: Settings = QUICK) -> Profile:
        """Measure a ``.tflite`` on the nodes, and the links between all of them and this process.

        `QUICK` takes seconds; ``collab.coordinator.profiling.Settings()`` is surer and
        takes about half a minute for three nodes.  Raises `ModelError` or `PeerError`.
        """
        path = await asyncio.to_thread(Path(model).resolve)
        graph = await asyncio.to_thread(planning.open_model, path)
        return await self._profile(path, graph, settings)

    async def _profile(self, path: Path, graph: Graph, settings: Settings) -> Profile:
        views = list((await self.nodes()).values())
        work = Profiling(
            self._cluster,
            views,
            graph,
            settings,
            now=lambda: datetime.now(timezone.utc),
            backend=LiteRT(),
            warn=log.warning,
        )
        return await work.run(path)

    async def plan(
        self,
        model: str | Path,
        wants: Wants = Wants(),
        *,
        at: Sequence[int] | None = None,
        assign: Sequence[Sequence[str]] | None = None,
        name: str | None = None,
        threads: int = 1,
        profile: Profile | None = None,
        alternatives: bool = True,
        offline: Sequence[str] = (),
    ) -> Plan:
        """Cut a ``.tflite`` and place its stages where that is best for ``wants``.

        ``at`` gives exactly these cuts, ``assign`` exactly these nodes for the stages
        (several are replicas).  Without a ``profile`` the devices and links get a quick
        look first.  With ``alternatives`` the plan brings one for the loss of each of its nodes
        where the others can hold the model, and one for each node in ``offline``, that shall
        answer alone when it has lost all others.  Raises `ModelError`, `UsageError` or `PlanError`.
        """
        path = await asyncio.to_thread(Path(model).resolve)
        graph = await asyncio.to_thread(planning.open_model, path)
        nodes = await self.nodes()
        if profile is None:
            profile = await self._profile(path, graph, replace(QUICK, threads=(threads,)))
        check_model(profile, graph.sha256)
        absent, _ = choosing.among(profile, list(nodes))
        full = replace(wants, at=wants.at if at is None else tuple(at), forbidden=wants.forbidden | absent)
        if assign is not None:
            full = full.assigned(tuple(tuple(map(NodeName, stage)) for stage in assign))
        if not full.choose_threads:
            profile = choosing.with_threads(profile, threads)
        chosen = await asyncio.to_thread(choosing.choose, profile, full, choosing.CHOSEN, "measured")
        if alternatives:
            chosen = await asyncio.to_thread(chosen.with_standbys, tuple(map(NodeName, offline)))
            for lost, reason in chosen.standbys.missing.items() if chosen.standbys is not None else ():
                log.warning("no alternative for the loss of %s: %s", lost, reason)
        options = choosing.PlanOptions(PlanName(check_name(name or planning.plan_name(path), "name")))
        refs = [view.ref for view in nodes.values()]
        return await asyncio.to_thread(choosing.plan_of, chosen, path, graph, refs, options)

    async def deploy(self, plan: Plan) -> Deployment:
        """Bring a plan up on all of its nodes, or on none; idempotent."""
        blobs = await asyncio.to_thread(planning.stage_blobs, plan, Path.cwd())
        return await deploy(self._cluster, plan, blobs)

    async def undeploy(self, plan: Plan) -> None:
        """Let requests finish, then free the plan on all of its nodes."""
        for key, (known, client, local) in tuple(self._clients.items()):
            if known == plan:
                del self._clients[key]
                await self._cluster.unfollow(client)
                if local is not None:
                    await local.close()
        await undeploy(self._cluster, plan)

    async def run(
        self,
        plan: Plan,
        inputs: Mapping[str, Array],
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        priority: Priority = Priority.NORMAL,
        local: str | Path | None = None,
    ) -> dict[str, Array]:
        """One inference: outputs by tensor name, in the model's shapes and dtypes.

        Any number may be awaited at a time; those over the connection's credits, and those that
        could not be answered within the deadline, raise `Overloaded`.  ``priority`` says who goes
        first in the nodes' queues.  The plan is deployed first if it is not.  When nodes are lost,
        the plan's alternatives answer, and then the whole model of the file ``local`` in this
        process, if it is given.  Raises `TensorError` for inputs of the wrong name, dtype or
        shape, `DeadlineExceeded`, `NodeLost` or another `RequestError`.
        """
        answer = await self.request(plan, inputs, deadline_s=deadline_s, priority=priority, local=local)
        return dict(answer.outputs)

    async def request(
        self,
        plan: Plan,
        inputs: Mapping[str, Array],
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        priority: Priority = Priority.NORMAL,
        local: str | Path | None = None,
    ) -> Result:
        """Like `run`, with the time in each hop and the path taken."""
        client = await self._client(plan, local)
        return await client.run(inputs, deadline_s, priority)

    async def feedback(
        self,
        plan: Plan,
        answer: Result,
        *,
        correct: bool | None = None,
        label: int | None = None,
        corrected: bool = False,
    ) -> bool | None:
        """Say whether an answer was right, which class it should have been, or that a user changed it.

        The node that gave it counts that, for policies that watch accuracy, and keeps neither input nor
        label.  Returns whether it was right, where that is known.  Raises `NotLoaded` where no node
        remembers the answer, or has been told before.
        """
        if not answer.request:
            raise NotLoaded("feedback: this process answered the request itself; no node counts that")
        return await judge(self._cluster, plan, answer.request, Judgement(correct, label, corrected))

    async def _client(self, plan: Plan, local: str | Path | None) -> Follower:
        key = (id(plan), "" if local is None else str(local))
        known = self._clients.get(key)
        if known is None:
            async with self._opening:
                known = self._clients.get(key)
                if known is None:
                    known = self._clients[key] = await self._open(plan, local)
        return known[1]

    async def _open(self, plan: Plan, local: str | Path | None) -> tuple[Plan, Follower, LocalModel | None]:
        """Deploy a plan if it is not; nodes that are gone matter only where nothing stands in for them."""
        whole = None if local is None else await asyncio.to_thread(local_model, plan, Path(local))
        try:
            current = plan
            try:
                # Weights that were trained since must not be put back by whoever has the older file.
                current = await self._trained_since(plan) or plan
                if current is plan:
                    await self.deploy(plan)
            except PeerError as error:
                if whole is None and not plan.alternatives:
                    raise
                log.warning("plan %r is not deployed anew: %s", plan.name, error)
            fallback = whole if current is plan else None
            follower = await self._cluster.follow(current, credits=self._credits, local=fallback)
        except BaseException:
            if whole is not None:
                await whole.close()
            raise
        return plan, follower, whole

    async def _trained_since(self, plan: Plan) -> Plan | None:
        """What runs in a plan's place with weights that came of training its own; None where nothing does."""
        with suppress(PeerError):
            await self._cluster.reach_plan(plan)
        newer = await self._cluster.successor(plan)
        if newer is None or not takes_the_place(newer, plan, same_model=False):
            return None
        return None if takes_the_place(newer, plan, same_model=True) else newer

    async def _close_local(self) -> None:
        for _, client, local in self._clients.values():
            await self._cluster.unfollow(client)
            if local is not None:
                await local.close()
        self._clients.clear()


class BlockingCluster:
    """The same without ``await``, on an event loop in a thread of its own.  Use as a context manager."""

    def __init__(
        self,
        peers: Sequence[str],
        *,
        credits: int = 16,
        identity: str | Path | None = None,
        insecure_networks: bool = False,
    ) -> None:
        self._connect = Cluster.connect(
            peers, credits=credits, identity=identity, insecure_networks=insecure_networks
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="collab-blocking", daemon=True)

    def __enter__(self) -> BlockingCluster:
        self._thread.start()
        try:
            self._cluster = self._call(self._connect.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._call(self._connect.__aexit__(None, None, None))
        finally:
            self._stop()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def nodes(self) -> dict[NodeName, views.NodeView]:
        """See `Cluster.nodes`."""
        return self._call(self._cluster.nodes())

    def profile(self, model: str | Path, settings: Settings = QUICK) -> Profile:
        """See `Cluster.profile`."""
        return self._call(self._cluster.profile(model, settings))

    def plan(self, model: str | Path, wants: Wants = Wants(), **options: Any) -> Plan:
        """See `Cluster.plan`."""
        return self._call(self._cluster.plan(model, wants, **options))

    def deploy(self, plan: Plan) -> Deployment:
        """See `Cluster.deploy`."""
        return self._call(self._cluster.deploy(plan))

    def undeploy(self, plan: Plan) -> None:
        """See `Cluster.undeploy`."""
        self._call(self._cluster.undeploy(plan))

    def run(
        self,
        plan: Plan,
        inputs: Mapping[str, Array],
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        priority: Priority = Priority.NORMAL,
        local: str | Path | None = None,
    ) -> dict[str, Array]:
        """See `Cluster.run`."""
        work = self._cluster.run(plan, inputs, deadline_s=deadline_s, priority=priority, local=local)
        return self._call(work)

    def feedback(self, plan: Plan, answer: Result, **said: Any) -> bool | None:
        """See `Cluster.feedback`."""
        return self._call(self._cluster.feedback(plan, answer, **said))

    def request(self, plan: Plan, inputs: Mapping[str, Array], **options: Any) -> Result:
        """See `Cluster.request`."""
        return self._call(self._cluster.request(plan, inputs, **options))

    def run_many(
        self,
        plan: Plan,
        requests: Sequence[Mapping[str, Array]],
        *,
        concurrency: int = 8,
        deadline_s: float = DEFAULT_DEADLINE_S,
        priority: Priority = Priority.NORMAL,
    ) -> list[dict[str, Array] | CollabError]:
        """Many inferences, pipelined; in place of an answer that failed stands its error."""

        async def all_of_them() -> list[dict[str, Array] | CollabError]:
            free = asyncio.Semaphore(concurrency)

            async def one(inputs: Mapping[str, Array]) -> dict[str, Array] | CollabError:
                async with free:
                    try:
                        return await self._cluster.run(plan, inputs, deadline_s=deadline_s, priority=priority)
                    except CollabError as error:
                        return error

            return list(await asyncio.gather(*map(one, requests)))

        return self._call(all_of_them())
