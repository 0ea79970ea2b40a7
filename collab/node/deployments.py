"""Which plans a node has, and the two-phase agreement by which it gets new ones.

A coordinator reserves a plan's name on every node, prepares everywhere, then commits
everywhere; each node compares (epoch, digest) with what the coordinator expects before
it sets them.  Whoever cannot reserve or prepare on one node aborts on all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from collab.client.wiring import Route, wire
from collab.core.ids import REQUESTER, Digest, EdgeId, Epoch, NodeName, PlanName
from collab.core.plan import Plan, StageSpec
from collab.core.validate import flow
from collab.errors import Conflict, LimitExceeded, NotLoaded, PlanError
from collab.node.lanes import Lanes
from collab.node.leases import Leases, share
from collab.node.limits import SessionLimits

Version = tuple[Epoch, Digest]
"""What a plan's name stands for on a node."""


class LoadedPlan:
    """One epoch of one plan, with everything derived from it that tokens need."""

    __slots__ = (
        "_limits",
        "_node",
        "_routes",
        "admitted",
        "committed",
        "credits",
        "digest",
        "epoch",
        "leases",
        "live",
        "live_by_requester",
        "plan",
        "retired",
        "wiring",
    )

    def __init__(self, plan: Plan, epoch: Epoch, node: NodeName, limits: SessionLimits) -> None:
        self._node = node
        self._limits = limits
        self._routes: dict[tuple[NodeName, Route], Lanes] = {}
        self.plan = plan
        self.epoch = epoch
        self.digest = plan.digest
        self.wiring = wire(plan)
        nodes = self.wiring.stages[self.wiring.entry].nodes
        self.credits = max(plan.credits, len(nodes))
        self.leases = Leases(share(plan, nodes, node), limits.lease_us) if node in nodes else None
        """None where attempts do not enter."""
        self.committed = False
        self.retired = False
        self.admitted: dict[NodeName, int] = {}
        """Attempts in flight here that entered here, by requester."""
        self.live = 0
        self.live_by_requester: dict[NodeName, int] = {}

    def __str__(self) -> str:
        return f"plan {self.plan.name!r} epoch {self.epoch} on node {self._node!r}"

    @property
    def state(self) -> str:
        """What may be done with it: ``prepared``, ``serving`` or ``retired``."""
        if self.retired:
            return "retired"
        return "serving" if self.committed else "prepared"

    def lanes(self, requester: NodeName, route: Route) -> Lanes | None:
        """The attempt's paths as seen from here; None if the plan does not allow the route."""
        known = self._routes.get((requester, route))
        if known is not None:
            return known
        if not self.wiring.names_all(route):
            return None
        if len(self._routes) >= self._limits.routes:
            self._routes.clear()
        lanes = self._routes[requester, route] = Lanes(self.wiring, self._node, requester, route)
        return lanes


@dataclass(frozen=True, slots=True)
class PlanInfo:
    """One epoch as others may see it."""

    plan: PlanName
    epoch: Epoch
    digest: Digest
    state: str
    """``prepared``, ``serving``, ``retired`` or ``unloaded``."""
    stages: tuple[StageSpec, ...]
    """Those on this node."""
    in_flight: int
    primary: PlanName | None = None
    """The plan that it stands in for."""
    release: str = ""
    """The release that its model came in."""


@dataclass(slots=True)
class _Reservation:
    plan: Plan
    epoch: Epoch
    digest: Digest
    holder: str
    expires_us: int
    prepared: bool = False

    def is_for(self, epoch: Epoch, digest: Digest, holder: str) -> bool:
        return (self.epoch, self.digest, self.holder) == (epoch, digest, holder)


@dataclass(slots=True)
class _Name:
    """What is known of a plan's name."""

    current: Version | None = None
    reservation: _Reservation | None = None
    highest: Epoch | None = None
    """No later deployment may have this epoch or a smaller one."""
    loaded: dict[Epoch, LoadedPlan] = field(default_factory=dict)


class Deployments:
    """The plans of one node."""

    def __init__(self, node: NodeName, limits: SessionLimits) -> None:
        self._node = node
        self._limits = limits
        self._names: dict[PlanName, _Name] = {}
        self._loaded: dict[tuple[PlanName, Epoch], LoadedPlan] = {}

    def plans(self) -> list[PlanInfo]:
        """All loaded epochs, and the last epoch of each plan of which none is loaded any more."""
        gone = [
            PlanInfo(name, known.highest, Digest(""), "unloaded", (), 0)
            for name, known in self._names.items()
            if not known.loaded and known.highest is not None
        ]
        return gone + [
            PlanInfo(
                *(name, epoch, loaded.digest, loaded.state),
                *(loaded.plan.stages_on(self._node), loaded.live, loaded.plan.primary, loaded.plan.release),
            )
            for (name, epoch), loaded in self._loaded.items()
        ]

    def find(self, plan: PlanName, epoch: Epoch) -> LoadedPlan | None:
        """The plan that tokens of an epoch belong to."""
        return self._loaded.get((plan, epoch))

    def current(self, plan: PlanName) -> Version | None:
        """What was committed last and is still loaded."""
        known = self._names.get(plan)
        return known.current if known is not None else None

    def epochs(self, plan: PlanName) -> tuple[Epoch, ...]:
        """Loaded epochs of a plan, oldest first."""
        known = self._names.get(plan)
        return tuple(sorted(known.loaded)) if known is not None else ()

    def not_loaded(self, plan: PlanName, epoch: Epoch) -> NotLoaded:
        """The error that says what is loaded instead."""
        epochs = self.epochs(plan)
        instead = f"epoch {', '.join(map(str, epochs))} is" if epochs else "no epoch of it is"
        return NotLoaded(f"plan {plan[:63]!r} epoch {epoch} is not loaded on node {self._node!r}; {instead}")

    def reserve(self, plan: Plan, epoch: Epoch, holder: str, now_us: int, expected: Version | None) -> None:
        """Keep the plan's name for one deployment; see `Session.reserve`."""
        if all(ref.name != self._node for ref in plan.nodes):
            raise PlanError(f"nodes: {self._node!r} is not listed, plan {plan.name!r} has no use for it")
        known = self._names.get(plan.name) or _Name()
        held, digest = known.reservation, plan.digest
        if known.current == (epoch, digest):
            return
        if held is not None and held.holder != holder and held.expires_us > now_us:
            raise self._conflict(plan.name, f"{held.holder!r} is deploying epoch {held.epoch}; try later")
        if known.current != expected:
            why = f"it has {_say(known.current)}, not {_say(expected)}; look again and retry"
            raise self._conflict(plan.name, why)
        if known.highest is not None and epoch <= known.highest:
            raise self._conflict(plan.name, f"epoch {epoch} is not above {known.highest}; take a larger one")
        expires_us = now_us + self._limits.reservation_us
        if held is not None and held.is_for(epoch, digest, holder):
            held.expires_us = expires_us
            return
        self._remember(plan.name, known, now_us)
        known.reservation = _Reservation(plan, epoch, digest, holder, expires_us)

    def reserved(self, plan: PlanName, epoch: Epoch, digest: Digest, holder: str, now_us: int) -> Plan:
        """The plan that was reserved; renews the reservation."""
        held = self._held(plan, epoch, digest, holder)
        held.expires_us = now_us + self._limits.reservation_us
        return held.plan

    def prepare(self, plan: PlanName, epoch: Epoch, digest: Digest, holder: str, now_us: int) -> None:
        """Load what was reserved, so that tokens find it; what is `stale` has been unloaded before."""
        held = self._held(plan, epoch, digest, holder)
        held.expires_us = now_us + self._limits.reservation_us
        if held.prepared:
            return
        if len(self._loaded) >= self._limits.plans:
            raise LimitExceeded(f"limits.plans: {self._limits.plans} plans are loaded on node {self._node!r}")
        loaded = LoadedPlan(held.plan, epoch, self._node, self._limits)
        self._names[plan].loaded[epoch] = self._loaded[plan, epoch] = loaded
        held.prepared = True

    def stale(self, plan: PlanName) -> list[Epoch]:
        """Epochs that were prepared for a reservation that is gone."""
        known = self._names.get(plan)
        if known is None:
            return []
        held = known.reservation
        wanted = held.epoch if held is not None and held.prepared else None
        return [epoch for epoch, loaded in known.loaded.items() if not loaded.committed and epoch != wanted]

    def commit(self, plan: PlanName, epoch: Epoch, digest: Digest, holder: str) -> None:
        """Make what was prepared current; `Conflict` if somebody else came in between."""
        if self.current(plan) == (epoch, digest):
            return
        held = self._held(plan, epoch, digest, holder)
        if not held.prepared:
            raise self._conflict(
                plan, f"epoch {epoch} is reserved, not prepared; prepare it everywhere first"
            )
        known = self._names[plan]
        known.loaded[epoch].committed = True
        known.current, known.highest, known.reservation = (epoch, digest), epoch, None

    def abort(self, plan: PlanName, epoch: Epoch, digest: Digest, holder: str) -> None:
        """Give a reservation up, if it is still there."""
        known = self._names.get(plan)
        held = known.reservation if known is not None else None
        if known is not None and held is not None and held.is_for(epoch, digest, holder):
            known.reservation = None

    def remember(self, plan: PlanName, epoch: Epoch, now_us: int) -> None:
        """Take no epoch up to this one again; raises `LimitExceeded`."""
        known = self._names.get(plan) or _Name()
        self._remember(plan, known, now_us)
        known.highest = max(epoch, known.highest or epoch)

    def retire(self, plan: PlanName, epoch: Epoch) -> None:
        """Admit no more attempts of an epoch."""
        loaded = self.find(plan, epoch)
        if loaded is None:
            raise self.not_loaded(plan, epoch)
        loaded.retired = True

    def unload(self, plan: PlanName, epoch: Epoch) -> None:
        """Drop a loaded epoch; what was current is so no longer."""
        del self._loaded[plan, epoch]
        known = self._names[plan]
        del known.loaded[epoch]
        if known.current is not None and known.current[0] == epoch:
            known.current = None
        held = known.reservation
        if held is not None and held.epoch == epoch:
            held.prepared = False

    def _held(self, plan: PlanName, epoch: Epoch, digest: Digest, holder: str) -> _Reservation:
        """A reservation stands until somebody else takes it, even when it has expired."""
        known = self._names.get(plan)
        held = known.reservation if known is not None else None
        if held is None or not held.is_for(epoch, digest, holder):
            owner = f"{held.holder!r} holds epoch {held.epoch}" if held is not None else "nobody does"
            raise self._conflict(plan, f"{holder!r} does not hold epoch {epoch}, {owner}; start again")
        return held

    def _conflict(self, plan: PlanName, why: str) -> Conflict:
        return Conflict(f"plan {plan!r} on node {self._node!r}: {why}")

    def _remember(self, plan: PlanName, known: _Name, now_us: int) -> None:
        """Keep a name, and forget the oldest that stands for nothing when there are too many."""
        if plan not in self._names and len(self._names) >= self._limits.plans:
            for name, other in self._names.items():
                held = other.reservation
                if not other.loaded and (held is None or held.expires_us <= now_us):
                    del self._names[name]
                    break
            else:
                raise LimitExceeded(
                    f"limits.plans: node {self._node!r} has {self._limits.plans} plans already"
                )
        self._names[plan] = known


def check_tensors(plan: Plan, node: NodeName, limit: int) -> None:
    """Refuse a plan whose edges carry more bytes than a node takes; raises `LimitExceeded`."""
    on_edge = flow(plan)
    for index, edge in enumerate(plan.edges):
        target = () if edge.target == REQUESTER else plan.stage(edge.target).nodes
        size = sum(spec.nbytes for spec in on_edge[EdgeId(index)].values())
        if size > limit and node in (*target, *edge.via):
            raise LimitExceeded(
                f"edges[{index}] ({edge.source} -> {edge.target}): its tensors have {size} bytes, "
                f"node {node!r} takes {limit}; raise its --max-tensor-bytes"
            )


def _say(version: Version | None) -> str:
    return f"epoch {version[0]} ({version[1][:12]})" if version is not None else "no committed epoch"
