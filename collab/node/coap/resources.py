"""What is at each path; knows nothing of the CoAP library, of blocks or of observers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from collab import __version__
from collab.client.runner import DEFAULT_DEADLINE_S, Result
from collab.codec.tensors import Array
from collab.core.ids import Epoch, PlanName
from collab.core.plan import Plan
from collab.core.tensor import TensorSpec
from collab.errors import NotLoaded, StageFailed
from collab.node.coap import bodies, cbor
from collab.node.coap.answers import Ask, Code, Declined, Format, Reply, choose
from collab.node.coap.jobs import Jobs
from collab.node.coap.listing import Link, render
from collab.node.service import NodeService
from collab.runtime.cpu import resident_bytes

WELL_KNOWN: Final = (".well-known", "core")
RUNNERS: Final = frozenset({"client", "operator", "node"})
"""Roles that may run plans; everybody with a certificate may read."""
SMALL_BODY: Final = 1024
"""Bytes of a body where none is expected."""
STATUS_S: Final = 1.0
"""Least time between two notifications of the status."""
_STATUS_STEP: Final = 1 << 20
"""Resident memory is told to observers in steps, or it would always have changed."""
_DESCRIPTIONS: Final = (Format.JSON, Format.CBOR)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class Runs(Protocol):
    """What runs requests."""

    async def run(self, plan: Plan, epoch: Epoch, inputs: Mapping[str, Array], deadline_s: float) -> Result:
        """One inference."""
        ...


class Resources:
    """Answers complete requests."""

    def __init__(self, node: NodeService, runner: Runs, jobs: Jobs, secured: bool) -> None:
        self._node = node
        self._runner = runner
        self._jobs = jobs
        self._secured = secured

    # --- before the body is there ----------------------------------------------

    def most_bytes(self, ask: Ask) -> int:
        """The longest body that a request may have; raises `Declined` or `CollabError` for a lost one.

        Also checks who asks, so that a stranger uploads nothing in vain.
        """
        if ask.code != Code.POST or (self._secured and ask.caller is None):
            return SMALL_BODY
        match ask.path:
            case ("plans", name, "run" | "jobs"):
                self._may_run(ask)
                plan, _ = self._plan(name)
                return max(bodies.most_bytes(plan.inputs), SMALL_BODY)
        return SMALL_BODY

    def _may_run(self, ask: Ask) -> None:
        if ask.caller is not None and ask.caller.role not in RUNNERS:
            allowed = ", ".join(sorted(RUNNERS))
            raise Declined(Code.FORBIDDEN, f"{ask.caller} may not run plans; only {allowed} may")

    def _plan(self, name: str) -> tuple[Plan, Epoch]:
        """The current plan of a name; raises `NotLoaded`."""
        current = self._node.session.current(PlanName(name))
        plan = self._node.stages.plan(PlanName(name), current[0]) if current else None
        if current is None or plan is None:
            raise NotLoaded(f"plan {name[:63]!r} is not loaded on node {self._node.name!r}")
        return plan, current[0]

    # --- answers ------------------------------------------------------------------

    async def answer(self, ask: Ask) -> Reply:
        """Answer one request; raises `Declined` or `CollabError`."""
        if self._secured and ask.caller is None:
            raise Declined(Code.UNAUTHORIZED, "who asks?")
        match ask.path:
            case (".well-known", "core"):
                return self._get(ask, self._links)
            case ("node",):
                return self._get(ask, lambda ask: _described(ask, self.description()))
            case ("status",):
                return self._get(ask, lambda ask: _described(ask, self.status()))
            case ("plans",):
                return self._get(ask, lambda ask: _described(ask, self._listed()))
            case ("plans", name):
                return self._get(ask, lambda ask: _described(ask, _signature(*self._plan(name))))
            case ("plans", name, "run"):
                self._only(ask, Code.POST)
                return await self._work(ask, name)
            case ("plans", name, "jobs"):
                self._only(ask, Code.POST)
                return self._begin(ask, name)
            case ("jobs", job_id):
                return self._job(ask, job_id)
            case ("releases", *path):
                self._only(ask, Code.GET)
                return await self._released(ask, path)
        raise Declined(Code.NOT_FOUND, "nothing is here; see /.well-known/core")

    def _only(self, ask: Ask, *codes: Code) -> None:
        if ask.code not in codes:
            allowed = ", ".join(code.name for code in codes)
            raise Declined(Code.METHOD_NOT_ALLOWED, f"/{'/'.join(ask.path)[:80]} takes {allowed} only")

    def _get(self, ask: Ask, make: Callable[[Ask], Reply]) -> Reply:
        self._only(ask, Code.GET)
        return make(ask)

    def description(self) -> dict[str, Any]:
        """The node, for people and programs that know nothing of this package."""
        node, device = self._node, self._node.device
        return {
            "name": node.name,
            "state": node.state,
            "software": f"collab/{__version__}",
            "device": {
                "model": device.model if device else "",
                "memory_bytes": device.memory_bytes if device else 0,
                "cores": device.cores if device else 0,
                "machine": device.runtime_class.machine if device else "",
            },
            "plans": [plan["name"] for plan in self._listed()],
        }

    def status(self) -> dict[str, Any]:
        """What the node is doing."""
        return {
            "resident_bytes": resident_bytes() // _STATUS_STEP * _STATUS_STEP,
            "in_flight": self._node.session.in_flight,
            "draining": self._node.draining,
            "counters": dict(sorted(self._node.counters().items())),
        }

    def _listed(self) -> list[dict[str, Any]]:
        return [
            {"name": info.plan, "epoch": info.epoch, "href": f"/plans/{info.plan}"}
            for info in self._node.session.plans()
            if info.state == "serving" and self._node.session.current(info.plan) == (info.epoch, info.digest)
        ]

    def _links(self, ask: Ask) -> Reply:
        choose(ask.accept, (Format.LINKS,))
        described = f"{int(Format.JSON)} {int(Format.CBOR)}"
        links = [
            Link("/.well-known/core", {"ct": str(int(Format.LINKS))}),
            Link("/node", _facts("collab.node", described, self.description())),
            Link("/status", _facts("collab.status", described, self.status()), observable=True),
            Link("/plans", _facts("collab.plans", described, self._listed())),
        ]
        if self._node.releases.repositories:
            links.append(Link("/releases", {"rt": "collab.releases", "if": "core.rp", "ct": described}))
        for listed in self._listed():
            plan, epoch = self._plan(listed["name"])
            tensors = f"{int(Format.CBOR)}"
            if bodies.raw_bytes(plan.inputs) is not None and bodies.raw_bytes(plan.outputs) is not None:
                tensors = f"{int(Format.OCTETS)} {int(Format.CBOR)}"
            links += [
                Link(listed["href"], _facts("collab.plan", described, _signature(plan, epoch))),
                Link(f"{listed['href']}/run", {"rt": "collab.run", "if": "core.p", "ct": tensors}),
                Link(f"{listed['href']}/jobs", {"rt": "collab.jobs", "if": "core.p", "ct": tensors}),
            ]
        return Reply(Code.CONTENT, render(links, ask.query), Format.LINKS)

    async def _released(self, ask: Ask, parts: list[str]) -> Reply:
        """Metadata whole, as it may be replaced between two blocks; what digests name, by blocks."""
        files, off_loop = self._node.releases, self._node.stages.off_loop
        if not parts:
            return _described(ask, files.repositories)
        if len(parts) == 1:
            return await self._release_part(ask, "", parts[0])
        repository, path = parts[0], "/".join(parts[1:])
        if path.startswith("metadata/"):
            return Reply(Code.CONTENT, await off_loop(files.metadata, repository, path), Format.JSON)
        if not _DIGEST.match(path.rpartition("/")[2]):
            raise NotLoaded(f"{path[:80]!r}: is no target that is named by its digest")
        return await self._release_part(ask, repository, path)

    async def _release_part(self, ask: Ask, repository: str, path: str) -> Reply:
        """One block of a file that its digest names."""
        read, off_loop = self._node.releases.read, self._node.stages.off_loop
        total, data = await off_loop(read, repository, path, ask.start, ask.room)
        etag = bytes.fromhex(path.rpartition("/")[2][:64])[:8]
        return Reply(Code.CONTENT, data, Format.OCTETS, total=total, etag=etag)

    # --- running ------------------------------------------------------------------

    async def _work(self, ask: Ask, name: str) -> Reply:
        self._may_run(ask)
        plan, epoch = self._plan(name)
        made = _made(ask, plan)
        inputs = _inputs(ask, plan)
        result = await self._runner.run(plan, epoch, inputs, DEFAULT_DEADLINE_S)
        return _outputs(plan.outputs, result, made)

    def _begin(self, ask: Ask, name: str) -> Reply:
        self._may_run(ask)
        plan, epoch = self._plan(name)
        made = _made(ask, plan)
        inputs = _inputs(ask, plan)
        owner = ask.caller if ask.caller is not None else ask.host
        self._jobs.check(owner)

        async def work() -> Reply:
            result = await self._runner.run(plan, epoch, inputs, DEFAULT_DEADLINE_S)
            return _outputs(plan.outputs, result, made)._replace(code=Code.CONTENT)

        job = self._jobs.start(owner, work)
        return Reply(Code.CREATED, location=("jobs", job.id))

    def _job(self, ask: Ask, job_id: str) -> Reply:
        self._only(ask, Code.GET, Code.DELETE)
        job = self._jobs.find(job_id, ask.caller if self._secured else None)
        if ask.code == Code.DELETE:
            self._jobs.drop(job)
            return Reply(Code.DELETED)
        if job.reply is None:
            return Reply(Code.CONTENT, b"running", Format.TEXT, max_age_s=0)
        return job.reply

    # --- observing ----------------------------------------------------------------

    def change(self, ask: Ask) -> Callable[[], Awaitable[bool]] | None:
        """Waits for news of an observable resource; what it returns says whether they are the last.

        None where nothing can be observed.
        """
        match ask.path:
            case ("status",):
                return _Status(self.status).changed
            case ("jobs", job_id):
                done = self._jobs.find(job_id, ask.caller if self._secured else None)
                return None if done.reply is not None else _Ends(done.done).wait
        return None


class _Status:
    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self._status = status
        self._told = status()

    async def changed(self) -> bool:
        while True:
            await asyncio.sleep(STATUS_S)
            now = self._status()
            if now != self._told:
                self._told = now
                return False


class _Ends:
    def __init__(self, done: asyncio.Event) -> None:
        self._done = done

    async def wait(self) -> bool:
        await self._done.wait()
        return True


def _encoded(value: Any, format_: int) -> bytes:
    return cbor.encode(value) if format_ == Format.CBOR else msgspec.json.encode(value)


def _described(ask: Ask, value: Any) -> Reply:
    format_ = choose(ask.accept, _DESCRIPTIONS)
    return Reply(Code.CONTENT, _encoded(value, format_), format_)


def _facts(kind: str, formats: str, value: Any) -> dict[str, str]:
    """Attributes of a resource that can be read; ``core.rp`` says that only (RFC 6690 and its registry)."""
    return {"rt": kind, "if": "core.rp", "ct": formats, "sz": str(len(msgspec.json.encode(value)))}


def _signature(plan: Plan, epoch: Epoch) -> dict[str, Any]:
    def specs(tensors: Sequence[TensorSpec]) -> list[dict[str, Any]]:
        return [{"name": t.name, "shape": t.shape, "dtype": t.dtype, "bytes": t.nbytes} for t in tensors]

    return {
        "name": plan.name,
        "epoch": epoch,
        "inputs": specs(plan.inputs),
        "outputs": specs(plan.outputs),
    }


def _inputs(ask: Ask, plan: Plan) -> dict[str, Array]:
    if ask.format in (None, Format.OCTETS):
        return bodies.from_raw(plan.inputs, ask.body)
    if ask.format == Format.CBOR:
        return bodies.from_cbor(plan.inputs, ask.body)
    raise Declined(Code.UNSUPPORTED_FORMAT, f"content format {ask.format}: send 42 (raw) or 60 (CBOR)")


def _made(ask: Ask, plan: Plan) -> int:
    """The content format of the answer: the one asked for, else the request's, as far as it can be."""
    raw = (Format.OCTETS,) if bodies.raw_bytes(plan.outputs) is not None else ()
    if ask.accept is None and ask.format == Format.CBOR:
        return Format.CBOR
    return choose(ask.accept, (*raw, Format.CBOR))


def _outputs(specs: Sequence[TensorSpec], result: Result, format_: int) -> Reply:
    if result.absent is not None:
        raise StageFailed(f"the plan keeps this answer back: {result.absent}")
    if format_ == Format.CBOR:
        body = bodies.to_cbor(specs, result.outputs)
    else:
        body = bodies.to_raw(specs[0], result.outputs[specs[0].name])
    return Reply(Code.CHANGED, body, format_)
