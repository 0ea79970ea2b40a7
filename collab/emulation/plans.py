"""Plans of a scenario: what the planner sees of it, and what it makes of each entry of ``plans``."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from typing import Final

from msgspec.structs import replace

from collab.core.codecs import parse_codec
from collab.core.ids import Digest, NodeName, PlanName, StageId
from collab.core.plan import ModelRef, NodeRef, Plan, Predicted, StageSpec
from collab.core.profile import DeviceProfile, LinkEntry, Profile
from collab.core.tensor import TensorSpec
from collab.emulation.costs import StackCosts
from collab.emulation.expected import link_entries
from collab.emulation.network import Leg, Network
from collab.emulation.scenario import Host, PlanChoice, Scenario
from collab.emulation.traces import Trace
from collab.emulation.ways import Ways
from collab.errors import ConfigError, PlanError
from collab.planner.chain import chain
from collab.planner.chains import Chain, Move, StageChoice, Wants
from collab.planner.ensemble import Member, Merging, ensemble
from collab.planner.evaluate import Evaluator
from collab.planner.prediction import predicted_of
from collab.planner.solve import best_single, solve

PLANNED_HOSTS: Final = 64
"""Hosts that the planner chooses from at most: links of all pairs are looked at."""
_PREDICTED_PAIRS: Final = 20_000
_PACKET, _PAYLOAD = 1500, 1448


@dataclass(frozen=True)
class Placed:
    """A plan that can run."""

    plan: Plan
    predicted: Predicted | None
    """None where the planner has no model of it: ensembles, plan files, very many replicas."""
    escalated: float = 0.5


def host_device(scenario: Scenario, profile: Profile, name: str, host: Host) -> DeviceProfile:
    """What operators cost on a host: its device's times, stretched and under its quota."""
    devices = {str(device.name): device for device in profile.devices}
    device = devices.get(host.device) or devices[name]
    slower = max(1.0, 1.0 / host.cpu) if host.cpu is not None else 1.0
    factor = host.stretch * slower
    return replace(
        device,
        name=NodeName(name),
        op_ms=tuple(ms * factor for ms in device.op_ms),
        stage_ms=device.stage_ms * slower,
        more_threads=tuple(
            replace(more, op_ms=tuple(ms * factor for ms in more.op_ms), stage_ms=more.stage_ms * slower)
            for more in device.more_threads
        ),
        memory_bytes=device.memory_bytes if host.memory_mb is None else int(host.memory_mb * 1e6),
    )


class Field:
    """A scenario as the planner sees it: profiles of hosts and of the ways between them.

    Hosts cost what the profile says of their devices, stretched; ``measured`` says it where
    they themselves were measured.
    """

    def __init__(
        self,
        scenario: Scenario,
        network: Network,
        profile: Profile,
        measured: Mapping[NodeName, DeviceProfile] | None = None,
        *,
        traces: Mapping[str, Trace],
    ) -> None:
        self.scenario, self.network, self.base = scenario, network, profile
        self.measured = measured is not None
        self.stack = StackCosts.of(scenario)
        self.devices = measured or {
            NodeName(name): host_device(scenario, profile, name, host)
            for name, host in scenario.machines.items()
        }
        self._legs: dict[Leg, LinkEntry] = {}
        entries: dict[int, tuple[LinkEntry, LinkEntry]] = {}
        for link in network.links:
            like = entries.get(id(link.profile))
            if like is None:
                like = entries[id(link.profile)] = link_entries(
                    link.profile, NodeName("a"), NodeName("b"), traces
                )
            up, down = like
            cell = network.cells.get(link.cell) if link.cell is not None else None
            if cell is not None:
                up, down = replace(up, mbit_s=cell.up_mbit_s), replace(down, mbit_s=cell.down_mbit_s)
            self._legs |= {Leg(link.one, link.other): up, Leg(link.other, link.one): down}
        self._ways = Ways(network)
        self.way = self._ways.between

    def entry(self, source: str, target: str) -> LinkEntry | None:
        """A way as one link of the planner, the Python stack at its ends included."""
        transport, broker = self.scenario.cluster.transport, self.scenario.cluster.broker
        hops = [(source, broker), (broker, target)] if broker else [(source, target)]
        latency_ms, per_byte_ms, jitter, passed = (
            (self.stack.message_us + self.stack.idle_us) / 1e3,
            self.stack.byte_us / 1e3,
            0.0,
            1.0,
        )
        for one, other in hops:
            way = self.way(one, other)
            if way is None:
                return None
            legs = [self._legs[leg] for leg in way]
            latency_ms += sum(leg.latency_ms for leg in legs)
            if legs:
                wire = min(leg.mbit_s for leg in legs) * _PAYLOAD / _PACKET
                per_byte_ms += 8 / (1000 * wire)
            jitter = math.hypot(jitter, *(leg.jitter_ms for leg in legs))
            passed *= math.prod(1 - leg.loss for leg in legs)
        return LinkEntry(
            source=NodeName(source),
            target=NodeName(target),
            latency_ms=latency_ms,
            mbit_s=8 / (1000 * per_byte_ms) if per_byte_ms else 1e6,
            transport=transport,
            jitter_ms=jitter,
            loss=1 - passed,
        )

    def profile(self, hosts: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Profile:
        """The planner's profile of some hosts and ways."""
        found = (self.entry(*pair) for pair in dict.fromkeys(pairs))
        links = tuple(entry for entry in found if entry is not None)
        requester = NodeName(self.scenario.requesters[0])
        linked = requester in hosts or any(requester in (e.source, e.target) for e in links)
        return replace(
            self.base,
            devices=tuple(self.devices[NodeName(name)] for name in hosts),
            links=links,
            requester=requester if linked else None,
        )

    def everything(self) -> Profile:
        """The profile to plan with; raises `ConfigError` for too many hosts."""
        hosts = tuple(self.scenario.machines)
        if len(hosts) > PLANNED_HOSTS:
            raise ConfigError(
                f"plans: {len(hosts)} hosts are too many to choose from; give at and assign, or at most "
                f"{PLANNED_HOSTS} hosts"
            )
        return self.profile(hosts, list(permutations(hosts, 2)))


def placed_plans(field: Field, files: Mapping[str, Plan]) -> tuple[Placed, ...]:
    """Every plan of a scenario, in its order.

    Args:
        field: what is planned on.
        files: plans that were read, by the name in the scenario.

    Raises:
        ConfigError: a plan is impossible; begins with the entry's path.
    """
    found = []
    for at, choice in enumerate(field.scenario.plans):
        try:
            found.append(_placed(field, choice, files))
        except (PlanError, KeyError) as error:
            raise ConfigError(f"plans[{at}]: {error}") from error
    return tuple(found)


def _placed(field: Field, choice: str | PlanChoice, files: Mapping[str, Plan]) -> Placed:
    if isinstance(choice, str):
        return _baseline(field, choice)
    if choice.file is not None:
        plan = files[choice.file]
        unknown = [ref.name for ref in plan.nodes if ref.name not in field.devices]
        if unknown:
            raise PlanError(f"file: node {unknown[0]!r} of {choice.file} is no host; rename one of them")
        return Placed(plan.replace(name=PlanName(choice.name)), plan.predicted, choice.escalated)
    if choice.ensemble is not None:
        return Placed(_ensemble(field, choice), None, choice.escalated)
    if choice.at is not None and choice.assign is not None:
        return _by_hand(
            field,
            choice.name,
            choice.at,
            _assigned(field.scenario, choice.assign),
            codecs_by_hand(choice),
            choice.codec_error,
        )
    profile = field.everything()
    wants = Wants(
        objective=choice.objective,
        deadline_ms=choice.deadline_ms,
        codecs=tuple(dict.fromkeys(("raw", *choice.codecs))),
        codec_error=choice.codec_error,
        forbidden=frozenset(NodeName(name) for name in choice.forbid),
        first_on=NodeName(choice.first_on) if choice.first_on is not None else None,
        max_replicas=choice.max_replicas,
        max_stages=choice.max_stages,
    )
    best = solve(profile, wants, 0).best
    return _chain(field, choice.name, best.chain, profile, choice.codec_error)


def _baseline(field: Field, name: str) -> Placed:
    """The whole model at the requester, or on the best host elsewhere."""
    requester = field.scenario.requesters[0]
    if name == "local":
        return _by_hand(field, name, (), ((requester,),))
    profile = field.everything()
    found = best_single(Evaluator(profile), Wants(forbidden=frozenset({NodeName(requester)})))
    if found is None:
        raise PlanError("offload: no other host can hold the whole model; leave it out")
    return _chain(field, name, found.chain, profile, None)


def _assigned(scenario: Scenario, entries: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    groups = scenario.groups
    return tuple(
        tuple(host for name in entry.split("+") for host in groups.get(name.strip(), (name.strip(),)))
        for entry in entries
    )


def codecs_by_hand(choice: PlanChoice) -> tuple[str, ...]:
    """One for each edge of a chain by hand, the input's first and the answer's last; empty: all raw."""
    return () if choice.codecs == ("raw",) else tuple(str(parse_codec(codec)) for codec in choice.codecs)


def _by_hand(
    field: Field,
    name: str,
    at: Sequence[int],
    stages: Sequence[Sequence[str]],
    codecs: Sequence[str] = (),
    codec_error: float | None = None,
) -> Placed:
    ops = len(field.base.devices[0].op_ms)
    known = {cut.at for cut in field.base.cuts}
    for cut in at:
        if cut not in known:
            raise PlanError(
                f"at: {cut} is no cut of the profile; it has {', '.join(map(str, sorted(known)))}"
            )
    bounds = [0, *at, ops]
    nodes = [tuple(NodeName(host) for host in hosts) for hosts in stages]
    transport = field.scenario.cluster.transport
    moves = tuple(Move(transport, codec) for codec in codecs or ("raw",) * (len(nodes) + 1))
    made = Chain(
        tuple(StageChoice(*span, names) for span, names in zip(pairwise(bounds), nodes, strict=True)),
        moves,
    )
    ends = [(NodeName(field.scenario.requesters[0]),), *nodes, (NodeName(field.scenario.requesters[0]),)]
    count = sum(len(a) * len(b) for a, b in pairwise(ends))
    if count > _PREDICTED_PAIRS:
        return Placed(chain_plan(field, name, made, codec_error), None)
    pairs = [(s, t) for a, b in pairwise(ends) for s in a for t in b if s != t]
    hosts = tuple(dict.fromkeys(host for names in nodes for host in names))
    return _chain(field, name, made, field.profile(hosts, pairs), codec_error)


def _chain(field: Field, name: str, made: Chain, profile: Profile, codec_error: float | None) -> Placed:
    evaluation = Evaluator(profile).evaluate(made)
    predicted = predicted_of(evaluation, made, basis="the scenario's profile and links")
    return Placed(chain_plan(field, name, made, codec_error), predicted)


# --- plans without a model file ---------------------------------------------------------


def chain_plan(field: Field, name: str, made: Chain, codec_error: float | None) -> Plan:
    """A chain as a plan whose tensors are as large as the profile says."""
    ops = len(field.base.devices[0].op_ms)
    sizes = {cut.at: cut.bytes for cut in field.base.cuts}
    sizes |= {0: field.base.input_bytes, ops: field.base.output_bytes}
    specs = {at: TensorSpec(f"cut-{at}", (size,), "uint8") for at, size in sizes.items()}
    stages = [
        StageSpec(
            id=StageId(f"stage-{i}"),
            nodes=stage.nodes,
            inputs=(specs[stage.start],),
            outputs=(specs[stage.stop],),
            ops=(stage.start, stage.stop),
            sha256=_digest(name, stage.start, stage.stop),
            threads=stage.threads or 1,
        )
        for i, stage in enumerate(made.stages)
    ]
    return chain(
        PlanName(name),
        _model(field.base, ops),
        stages,
        [[specs[stage.start].name] for stage in made.stages[1:]],
        (specs[0],),
        (specs[ops],),
        [NodeRef(name=node) for node in dict.fromkeys(n for s in made.stages for n in s.nodes)],
        codecs=[move.codec for move in made.moves],
        transports=[move.transport for move in made.moves],
        credits=field.scenario.cluster.credits,
        codec_error=codec_error,
    )


def _ensemble(field: Field, choice: PlanChoice) -> Plan:
    spec = choice.ensemble
    assert spec is not None
    ops = len(field.base.devices[0].op_ms)
    inputs = (TensorSpec("input", (field.base.input_bytes,), "uint8"),)
    outputs = (TensorSpec("output", (1, max(field.base.output_bytes // 4, 2)), "float32"),)
    members = [
        Member(
            _model(field.base, ops),
            (
                StageSpec(
                    id=StageId("whole"),
                    nodes=(NodeName(host),),
                    inputs=inputs,
                    outputs=outputs,
                    ops=(0, ops),
                    sha256=_digest(choice.name, 0, ops),
                ),
            ),
            (),
            inputs,
            outputs,
        )
        for host in spec.members
    ]
    merging = Merging("mean", (NodeName(spec.node),), quorum=spec.quorum, wait_ms=spec.wait_ms)
    nodes = [NodeRef(name=NodeName(host)) for host in dict.fromkeys((*spec.members, spec.node))]
    cluster = field.scenario.cluster
    return ensemble(
        PlanName(choice.name), members, merging, nodes, transport=cluster.transport, credits=cluster.credits
    )


def _model(profile: Profile, ops: int) -> ModelRef:
    return ModelRef(sha256=Digest(profile.model_sha256), ops=ops)


def _digest(*parts: object) -> Digest:
    return Digest(hashlib.sha256(repr(parts).encode()).hexdigest())
