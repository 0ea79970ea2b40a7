"""What the page shows of a cluster, made from looks at its nodes; no I/O, times are passed in.

``node:NAME``, ``link:A|B|TRANSPORT``, ``plan:NAME``, ``recent:PLAN``, ``run:NAME``, ``rollout:NAME``
and ``history:PLAN`` are values of `Versions`; ``rate:PLAN``, ``stage_ms:PLAN``, ``nodes_ms:PLAN SHARE``,
``asked_ms:PLAN SHARE``, ``refused:CAUSE`` and ``link_mbit`` are series.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from collab.core.ids import REQUESTER, Digest, PlanName
from collab.core.plan import Edge, Plan
from collab.core.transforms import kind_of
from collab.dashboard.looks import About, LinkLook, NodeLook
from collab.dashboard.measured import StageMeans
from collab.dashboard.timeline import Bar, predicted_timeline, timeline
from collab.dashboard.traffic import Traffic, request_bars
from collab.dashboard.versions import Versions
from collab.telemetry.catalogue import Value
from collab.telemetry.recent import Recent

MAX_NODES: Final = 256
_QUIET_S: Final = 10.0
"""An alternative that answered nothing for so long, and does again, is a failover anew."""

RECENT: Final = 6
"""Requests of a plan that are shown as they went."""

LOST = "lost"


class Board:
    """All that is known, as values that the page draws."""

    def __init__(self) -> None:
        self.versions = Versions()
        self._looks: dict[str, NodeLook] = {}
        self._about: dict[str, About] = {}
        self._state: dict[str, str] = {}
        self._counted: dict[tuple[str, str, str], tuple[float, int, int]] = {}
        """Time and bytes there and back of each link, as each end last said."""
        self._rates: dict[tuple[str, str, str], tuple[float, float]] = {}
        self._plans: dict[Digest, Plan] = {}
        self._predicted: dict[Digest, Plan] = {}
        self._running: dict[PlanName, tuple[int, str]] = {}
        """Epoch and digest of the plans that run."""
        self._means = StageMeans()
        self._traffic = Traffic()
        self._stood_in: dict[str, float] = {}
        """When an alternative last answered."""
        self._documents: dict[str, Any] = {}
        self._ticked_s = float("-inf")

    # --- nodes -----------------------------------------------------------------------

    def about(self, name: str, about: About) -> None:
        """What a node is."""
        if name in self._about or len(self._about) < MAX_NODES:
            self._about[name] = about

    def see(self, look: NodeLook, now_s: float) -> None:
        """What a node is doing."""
        if look.name not in self._state and len(self._state) >= MAX_NODES:
            return
        self._looks[look.name] = look
        self._turn(look.name, look.state, now_s)
        self._put_node(look)
        for link in look.links:
            self._count(look.name, link, now_s)
        self._means.take(look.name, look.counters, now_s)
        self._traffic.see(look.name, look.counters, look.answers, now_s)

    def lost(self, name: str, reason: str, now_s: float) -> None:
        """A node does not answer."""
        if name not in self._state and len(self._state) >= MAX_NODES:
            return
        self._turn(name, LOST, now_s, reason)
        old = self.versions.get(f"node:{name}") or self._node_value(NodeLook(name, LOST))
        self.versions.put(f"node:{name}", {**old, "state": LOST, "reason": reason[:200]})
        self._looks.pop(name, None)
        self._means.forget(name)
        self._traffic.forget(name)

    def forget(self, name: str) -> None:
        """What stood for a node whose name was not known."""
        if self._state.pop(name, None) is not None:
            self.versions.drop(f"node:{name}")

    def _turn(self, name: str, state: str, now_s: float, reason: str = "") -> None:
        before = self._state.get(name)
        self._state[name] = state
        if before == state:
            return
        text = f"node {name}: {state}" if before is None else f"node {name}: {before} → {state}"
        level = "error" if state == LOST else "warning" if state in ("draining", "offline") else "info"
        self.note(now_s, level, "node", f"{text} ({reason[:200]})" if reason else text)

    def _put_node(self, look: NodeLook) -> None:
        self.versions.put(f"node:{look.name}", self._node_value(look))

    def _node_value(self, look: NodeLook) -> dict[str, Any]:
        about = self._about.get(look.name, About())
        return {
            "name": look.name,
            "state": look.state,
            "reason": "",
            "address": about.address,
            "device": about.device,
            "software": about.software,
            "memory_bytes": about.memory_bytes,
            "cores": about.cores,
            "remarks": list(about.remarks),
            # Rounded, so that a page that shows megabytes is not told of each page of memory.
            "resident_mb": round(look.resident_bytes / 1e6),
            "requesters": look.requesters,
            "in_flight": sum(plan.in_flight for plan in look.plans),
            "plans": [
                {
                    "plan": plan.plan,
                    "epoch": plan.epoch,
                    "state": plan.state,
                    "stages": list(plan.stages),
                    "primary": plan.primary,
                    "release": plan.release,
                    "trial": plan.trial,
                }
                for plan in look.plans
                if plan.state != "unloaded"
            ],
        }

    # --- links -----------------------------------------------------------------------

    def _count(self, end: str, link: LinkLook, now_s: float) -> None:
        key = (end, link.peer, link.transport)
        old = self._counted.get(key)
        if old is not None and now_s <= old[0]:
            return
        self._counted[key] = (now_s, link.sent_bytes, link.received_bytes)
        if old is not None:
            took_s = now_s - old[0]
            sent, received = (
                max(0, link.sent_bytes - old[1]) * 8e-6 / took_s,
                max(0, link.received_bytes - old[2]) * 8e-6 / took_s,
            )
            self._rates[key] = (sent, received)

    def _links(self) -> dict[str, dict[str, Any]]:
        """Each pair of nodes and transport once, with what the better informed end says."""
        found: dict[str, dict[str, Any]] = {}
        for look in self._looks.values():
            for link in look.links:
                a, b = sorted((look.name, link.peer))
                there, back = self._rates.get((look.name, link.peer, link.transport), (0.0, 0.0))
                if a != look.name:
                    there, back = back, there
                entry = found.setdefault(
                    f"link:{a}|{b}|{link.transport}",
                    {
                        **{"a": a, "b": b, "transport": link.transport},
                        **{"rtt_ms": 0.0, "mbit_ab": 0.0, "mbit_ba": 0.0, "relayed": False},
                    },
                )
                known = entry["rtt_ms"]
                if link.rtt_ms > 0:
                    entry["rtt_ms"] = _rounded(min(known, link.rtt_ms) if known else link.rtt_ms)
                entry["mbit_ab"] = max(entry["mbit_ab"], _rounded(there))
                entry["mbit_ba"] = max(entry["mbit_ba"], _rounded(back))
                entry["relayed"] = entry["relayed"] or link.relayed
        return found

    # --- plans -----------------------------------------------------------------------

    def knows(self, digest: str) -> bool:
        """Whether a plan need not be asked for."""
        return digest in self._plans

    def plan(self, plan: Plan) -> None:
        """A plan as a node has it."""
        if len(self._plans) >= MAX_NODES:
            running = {digest for _, digest in self._running.values()}
            self._plans = {digest: kept for digest, kept in self._plans.items() if digest in running}
        self._plans[plan.digest] = plan

    def predict(self, plans: Sequence[Plan]) -> None:
        """Plans of files, with what they predict."""
        self._predicted = {plan.digest: plan for plan in plans}

    def _look_at_plans(self, now_s: float) -> None:
        serving: dict[PlanName, tuple[int, str]] = {}
        standing: dict[str, str] = {}
        for look in self._looks.values():
            for held in look.plans:
                if held.primary:
                    standing[held.plan] = held.primary
                elif held.state == "serving":
                    current = serving.get(PlanName(held.plan), (0, ""))
                    serving[PlanName(held.plan)] = max(current, (held.epoch, held.digest))
        for name, (epoch, digest) in serving.items():
            if self._running.get(name) != (epoch, digest):
                self._tell_of_plan(name, epoch, digest, now_s)
                self._running[name] = (epoch, digest)
            self._put_plan(name, epoch, digest, now_s)
        for name in set(self._running) - set(serving):
            del self._running[name]
            self.note(now_s, "warning", "plan", f"plan {name}: no node that answers serves it")
        self.versions.keep_only("plan:", (f"plan:{name}" for name in serving))
        self._look_at_alternatives(standing, now_s)

    def _tell_of_plan(self, name: PlanName, epoch: int, digest: str, now_s: float) -> None:
        old, plan = self._running.get(name), self._plans.get(Digest(digest))
        where = "" if plan is None else f" on {', '.join(plan.placed)}"
        if old is None:
            self.note(now_s, "info", "plan", f"plan {name}: epoch {epoch} runs{where}")
            return
        before = self._plans.get(Digest(old[1]))
        moved = plan is not None and before is not None and plan.placed != before.placed
        what = "planned anew" if moved else "deployed anew"
        self.note(now_s, "warning", "plan", f"plan {name}: {what}, epoch {old[0]} → {epoch}{where}")

    def _look_at_alternatives(self, standing: Mapping[str, str], now_s: float) -> None:
        for name, primary in standing.items():
            if self._means.ran(name, self._ticked_s):
                if now_s - self._stood_in.get(name, -_QUIET_S) >= _QUIET_S:
                    text = f"plan {primary}: failover, its alternative {name} answers"
                    self.note(now_s, "warning", "failover", text)
                self._stood_in[name] = now_s
        self._stood_in = {name: at for name, at in self._stood_in.items() if name in standing}

    def _put_plan(self, name: PlanName, epoch: int, digest: str, now_s: float) -> None:
        plan = self._plans.get(Digest(digest))
        value: dict[str, Any] = {"name": name, "epoch": epoch, "digest": digest[:12], "stages": []}
        if plan is not None:
            value |= self._plan_value(plan, epoch, now_s)
        self.versions.put(f"plan:{name}", value)

    def _plan_value(self, plan: Plan, epoch: int, now_s: float) -> dict[str, Any]:
        told = self._predicted.get(plan.digest)
        releases = {
            held.release for look in self._looks.values() for held in look.plans if held.plan == plan.name
        }

        def measured(stage: str) -> float | None:
            return self._means.ms(plan.name, epoch, stage)

        known = [measured(stage.id) for stage in plan.stages]
        bars: list[Bar] = []
        if any(ms is not None for ms in known):
            bars = timeline(plan, lambda stage: measured(stage) or 0.0, self._edge_ms)
        return {
            "stages": [
                {
                    "id": stage.id,
                    "nodes": list(stage.nodes),
                    "ops": list(stage.ops or ()),
                    "combine": stage.combine or (kind_of(stage.transform) if stage.transform else ""),
                    "bytes": stage.bytes,
                    "ms": None if ms is None else _rounded(ms),
                }
                for stage, ms in zip(plan.stages, known, strict=True)
            ],
            "edges": [[edge.source, edge.target, edge.transport, edge.codec] for edge in plan.edges],
            "alternatives": [alternative.name for alternative in plan.alternatives],
            "release": ", ".join(sorted(releases - {""})),
            "predicted_ms": told.predicted.latency_ms if told and told.predicted else None,
            "predicted": [] if told is None else _bars(predicted_timeline(told)),
            "measured": _bars(bars),
            "rate": _rounded(self._answers(plan, epoch, now_s)),
        }

    def _answers(self, plan: Plan, epoch: int, now_s: float) -> float:
        """Answers a second: runs of what gives the answer, or of the busiest such stage."""
        last = {edge.source for edge in plan.edges if edge.target == REQUESTER}
        return max((self._means.rate(plan.name, epoch, stage, now_s) for stage in last), default=0.0)

    def _edge_ms(self, edge: Edge) -> float:
        """Half the smallest round trip measured over the edge's transport; the requester's is not known."""
        if REQUESTER in (edge.source, edge.target):
            return 0.0
        trips = [
            value["rtt_ms"]
            for key in self.versions.keys("link:")
            if (value := self.versions.get(key))["transport"] == edge.transport and value["rtt_ms"]
        ]
        return min(trips, default=0.0) / 2

    # --- requests ------------------------------------------------------------------------

    def hear(self, requester: str, values: Iterable[Value], recent: Sequence[Recent], now_s: float) -> None:
        """What a requester has counted of its requests, and how the last of them went."""
        self._traffic.hear(requester, values, now_s)
        by_plan: dict[PlanName, list[dict[str, Any]]] = {}
        for request in recent:
            epoch, digest = self._running.get(request.plan, (0, ""))
            plan = self._plans.get(Digest(digest))
            # Hops are numbered in the plan that answered: of another one the stages are not known here.
            if plan is None or request.epoch != epoch or not request.own:
                continue
            told = {
                "at": round(request.at_s, 3),
                "ms": _rounded(request.total_ms),
                "attempts": request.attempts,
                "bars": _bars(request_bars(request, plan)),
            }
            by_plan.setdefault(request.plan, []).append(told)
        for name, requests in by_plan.items():
            self.versions.put(f"recent:{name}", {"name": name, "requests": requests[-RECENT:]})
        self.versions.keep_only("recent:", (f"recent:{name}" for name in by_plan))

    # --- the rest ----------------------------------------------------------------------

    def documents(self, kind: str, found: Iterable[dict[str, Any]], now_s: float) -> None:
        """Runs or rollouts as their folders tell of them; what is ``said`` of each goes to the log."""
        wanted = []
        for document in found:
            key = f"{kind}:{document['name']}"
            wanted.append(key)
            if self.versions.put(key, document) and self._documents.get(key) != document["said"]:
                self._documents[key] = document["said"]
                self.note(now_s, "info", kind, f"{kind} {document['name']}: {document['said']}")
        self.versions.keep_only(f"{kind}:", wanted)

    def tick(self, now_s: float) -> None:
        """After a round of looks: what follows from them all, and a point of each series."""
        links = self._links()
        for key, value in links.items():
            self.versions.put(key, value)
        self.versions.keep_only("link:", links)
        known = {
            (look.name, link.peer, link.transport) for look in self._looks.values() for link in look.links
        }
        self._counted = {key: value for key, value in self._counted.items() if key in known}
        self._rates = {key: value for key, value in self._rates.items() if key in known}
        self._look_at_plans(now_s)
        for name in self._running:
            value = self.versions.get(f"plan:{name}") or {}
            self.versions.add(f"rate:{name}", now_s, value.get("rate", 0.0))
            times = [stage["ms"] for stage in value.get("stages", ()) if stage["ms"] is not None]
            if times:
                self.versions.add(f"stage_ms:{name}", now_s, _rounded(sum(times)))
            if value.get("predicted_ms") is not None:
                self.versions.add(f"asked_ms:{name} predicted", now_s, _rounded(value["predicted_ms"]))
        for series, point in self._traffic.points(now_s):
            self.versions.add(series, now_s, _rounded(point))
        total = sum(value["mbit_ab"] + value["mbit_ba"] for value in links.values())
        self.versions.add("link_mbit", now_s, _rounded(total))
        self._ticked_s = now_s

    def note(self, now_s: float, level: str, kind: str, text: str) -> None:
        """A line of the log."""
        self.versions.log({"at": now_s, "level": level, "kind": kind, "text": text[:500]})


def _rounded(value: float) -> float:
    """Three digits: what shows no difference is none."""
    return float(f"{value:.3g}")


def _bars(bars: Iterable[Bar]) -> list[list[Any]]:
    return [[b.row, b.label, b.kind, _rounded(b.start_ms), _rounded(b.ms)] for b in bars]
