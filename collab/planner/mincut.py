"""The fastest partition of any operator graph between two sites, by a minimum cut.

A chain cuts the order of execution; a partition may take any set of operators that holds
what its members read.  The operators of the near site run first, then all that the others
read crosses at once.  This is DADS (Hu et al., "Dynamic Adaptive DNN Surgery for Inference
Acceleration on the Edge", INFOCOM 2019) with what `Evaluator` charges besides, exact to a
picosecond for each addend.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from collab.core.ids import NodeName
from collab.core.profile import DeviceProfile, LinkEntry, ModelTensor, Profile
from collab.errors import PlanError
from collab.planner.chains import Move
from collab.planner.evaluate import Evaluator
from collab.planner.maxflow import Network

_TICKS: Final = 10**9
"""Whole numbers in a ms: the maximum flow of whole numbers ends, and is exact."""
_PRICE: Final = 2**20
"""Further steps in a tick, so that a byte of memory can cost less than one."""
_PRICINGS: Final = 30
"""Most prices of one device's memory that are tried."""
_BARRED: Final = 1 << 120
"""More ticks, finest steps included, than anything costs."""

Together = Sequence[tuple[int, int]]
"""Ranges ``(first, last)`` of operators that have to stay on one site."""


@dataclass(frozen=True)
class DagCut:
    """Operators of the near site, and an order of all in which that is one cut."""

    near: frozenset[int]
    order: tuple[int, ...]
    """Old numbers in new order: those of the near site first; cut ``at`` of it is the partition."""
    at: int
    """How many operators are near; with 0 or all of them nothing is cut."""
    latency_ms: float
    bound_ms: float
    """No partition is faster; the latency itself where that is proven to be the least."""
    crossing: tuple[str, ...]
    """Tensors that cross."""
    transport: str
    """What they cross by; empty where nothing is cut."""

    @property
    def exact(self) -> bool:
        """Whether no partition is faster."""
        return self.bound_ms >= self.latency_ms


def dag_cut(
    profile: Profile,
    near: NodeName,
    far: NodeName,
    *,
    transports: Sequence[str] = (),
    together: Together | None = None,
) -> DagCut | None:
    """Partition a model between two devices for the least latency of one request.

    Model inputs go to the near device, the answer comes from the far one, and the whole
    model on either is a partition too.  Nothing is encoded.  Where the least cut takes more
    memory than a device has, memory is priced (Lagrangian relaxation): the result then may
    not be the best, and ``bound_ms`` says how far from it at most.

    Args:
        profile: with its ``tensors``, all that may travel.
        near: device that reads the model's inputs.
        far: device that gives the answer.
        transports: those that may be chosen; empty: all that the profile's links list.
        together: operators that must not be parted.  By default those around each cut that
            the profile does not list: what cannot be parted there, as by a tensor that cannot
            travel or by shared state, is not parted in any order.

    Returns:
        None where neither a device nor any partition that was found can run the model.

    Raises:
        PlanError: the profile has no such device, or its tensors do not fit together or its cuts.
    """
    return _Sites(profile, near, far, transports, together).best()


def kept_together(profile: Profile, given: Together | None) -> Together:
    """What is not parted: what is given, or what the profile's cuts do not part."""
    if given is not None:
        return given
    listed = {cut.at for cut in profile.cuts}
    return [(k - 1, k) for k in range(1, len(profile.devices[0].op_ms)) if k not in listed]


def live_bytes(tensors: Iterable[ModelTensor], ops: int) -> list[int]:
    """Bytes that cross each place 0, 1, ... `ops` in the order of execution."""
    steps = [0] * (ops + 2)
    for tensor in tensors:
        last = ops if tensor.output else max(tensor.readers, default=-1)
        if last > tensor.made:
            steps[tensor.made + 1] += tensor.bytes
            steps[last + 1] -= tensor.bytes
    return list(itertools.accumulate(steps))[: ops + 1]


@dataclass(frozen=True)
class _Crossing:
    """One way to cross, with what every partition costs that does."""

    link: LinkEntry
    fixed_ms: float


class _Sites:
    """One search between two devices."""

    def __init__(
        self,
        profile: Profile,
        near: NodeName,
        far: NodeName,
        transports: Sequence[str],
        together: Together | None,
    ) -> None:
        self.costs, self.profile = Evaluator(profile), profile
        self.near, self.far = (self.device(name) for name in (near, far))
        self.ops = len(self.near.op_ms)
        self.transports = tuple(transports) or tuple(dict.fromkeys(e.transport for e in profile.links))
        self.together = kept_together(profile, together)
        self.check()

    def check(self) -> None:
        """Refuse tensors that cannot be, or that are not all that the cuts say."""
        tensors = self.profile.tensors
        late = [t.name for t in tensors if min(t.readers, default=self.ops) <= t.made]
        if late:
            raise PlanError(f"tensors: {late[0]!r} is read before it is made: correct made or readers")
        live = live_bytes(tensors, self.ops)
        for i, cut in enumerate(self.profile.cuts):
            if cut.bytes != live[cut.at]:
                raise PlanError(
                    f"cuts[{i}].bytes: {cut.bytes}, but of tensors {live[cut.at]} bytes cross cut {cut.at}: "
                    "list all tensors that travel"
                )

    def device(self, name: NodeName) -> DeviceProfile:
        found = self.costs.devices.get(name)
        if found is None:
            raise PlanError(f"devices: there is no {name!r}: it has {', '.join(self.costs.devices)}")
        return found

    def best(self) -> DagCut | None:
        """The best partition; of equal ones that with fewer sites."""
        all_ops = frozenset(range(self.ops))
        singles = [
            DagCut(near, tuple(range(self.ops)), len(near), ms, ms, (), "")
            for near, ms in ((all_ops, self.alone(self.near)), (frozenset[int](), self.alone(self.far)))
            if self.fits(near) and ms < math.inf
        ]
        best = min(singles, key=lambda cut: cut.latency_ms, default=None)
        bound = best.latency_ms if best else math.inf
        crossings = list(self.crossings())
        for crossing in crossings:
            found, at_least = self.parted(crossing, best.latency_ms if best else math.inf)
            bound = min(bound, at_least)
            if found is not None:  # one that memory shaped may be better by another way
                ways = (self.cut(found.near, way) for way in crossings)
                best = min((*ways, *([best] if best else ())), key=lambda cut: cut.latency_ms)
        if best is None:
            return None
        return dataclasses.replace(best, bound_ms=min(bound, best.latency_ms))

    def crossings(self) -> Iterator[_Crossing]:
        fixed = self.near.stage_ms + self.far.stage_ms
        fixed += self.move_ms(self.profile.requester, self.near.name, 0)
        fixed += self.move_ms(self.far.name, self.profile.requester, self.ops)
        for transport in self.transports:
            link = self.costs.link(self.near.name, self.far.name, transport)
            if link is not None and fixed < math.inf and self.near is not self.far:
                yield _Crossing(link, fixed + link.latency_ms)

    def move_ms(self, source: NodeName | None, target: NodeName | None, at: int) -> float:
        """The quickest way for the model's inputs or outputs."""
        ways = (self.costs.move_ms(source, target, at, Move(t))[0] for t in self.transports or ("",))
        return min(ways)

    def alone(self, device: DeviceProfile) -> float:
        """Latency of the whole model on one device."""
        there = self.move_ms(self.profile.requester, device.name, 0)
        back = self.move_ms(device.name, self.profile.requester, self.ops)
        return there + self.costs.stage_ms(device, 0, self.ops) + back

    def excess(self, device: DeviceProfile, ops: Iterable[int]) -> int:
        """Bytes by which operators do not fit a device."""
        own = sum(device.op_bytes[k] for k in ops)
        return own + device.stage_bytes - device.memory_bytes

    def fits(self, near: frozenset[int]) -> bool:
        """Whether both parts fit; nothing needs no memory."""
        held = ((self.near, list(near)), (self.far, self.rest(near)))
        return all(not ops or self.excess(device, ops) <= 0 for device, ops in held)

    def crossing_tensors(self, near: frozenset[int]) -> list[ModelTensor]:
        return [
            t
            for t in self.profile.tensors
            if (t.made < 0 or t.made in near) and (t.output or any(r not in near for r in t.readers))
        ]

    def cut(self, near: frozenset[int], crossing: _Crossing) -> DagCut:
        """A partition with its latency."""
        tensors = self.crossing_tensors(near)
        rest = self.rest(near)
        ms = crossing.fixed_ms + sum(self.near.op_ms[k] for k in near) + sum(self.far.op_ms[k] for k in rest)
        ms += 8 * sum(t.bytes for t in tensors) / (1000 * crossing.link.mbit_s)
        order = (*sorted(near), *rest)
        names = tuple(t.name for t in tensors)
        return DagCut(near, order, len(near), ms, ms, names, crossing.link.transport)

    # --- searching -----------------------------------------------------------------

    def parted(self, crossing: _Crossing, limit: float) -> tuple[DagCut | None, float]:
        """The best partition with operators on both sites below a limit, and a bound on all of those."""
        found = self.least(crossing, limit)
        if found is None or self.fits(found):
            cut = self.cut(found, crossing) if found is not None else None
            return cut, cut.latency_ms if cut else math.inf
        return self.priced(crossing, self.cut(found, crossing).latency_ms)

    def least(self, crossing: _Crossing, limit: float) -> frozenset[int] | None:
        """The near part of the fastest partition with operators on both sites, memory aside.

        The cut of least cost may leave one site empty; then each operator that could be
        the first or the last one is tried there.  None where none is below the limit.
        """
        room = (limit - crossing.fixed_ms) * _TICKS
        best: frozenset[int] | None = None
        tried = {(-1, -1)}
        waiting = deque(tried)
        while waiting:
            first, last = waiting.popleft()
            near, value = self.solve(crossing, first, last)
            if value >= room:
                continue
            if 0 < len(near) < self.ops:
                best, room = near, value
                continue
            forced = [(k, last) for k in self.ends()[0]] if not near else [(first, k) for k in self.ends()[1]]
            waiting.extend(pair for pair in forced if pair not in tried)
            tried.update(forced)
        return best

    def ends(self) -> tuple[list[int], list[int]]:
        """Operators that read none that others make, and those whose results none reads."""
        made = {t.made for t in self.profile.tensors if t.readers}
        reads = {r for t in self.profile.tensors if t.made >= 0 for r in t.readers}
        ops = range(self.ops)
        return [k for k in ops if k not in reads], [k for k in ops if k not in made]

    def priced(self, crossing: _Crossing, bound: float) -> tuple[DagCut | None, float]:
        """Partitions that fit, found by pricing memory, and a bound on all of them.

        With price m for each byte over, cost + m * excess is at most the cost of everything
        that fits, so its minimum is a bound; the price where it is largest lies between those
        of a part that fits and one that does not.  The best cut in the order of execution is
        tried too.
        """
        found = {frozenset(range(k)) for k in self.plain_cut(crossing)}
        relaxed = self.solve(crossing)[0]
        for device, sign in ((self.near, 1), (self.far, -1)):
            over, under = relaxed, frozenset(range(self.ops) if sign < 0 else ())
            for _ in range(_PRICINGS):
                beyond = [self.excess(device, n if sign > 0 else self.rest(n)) for n in (over, under)]
                if beyond[0] <= 0 or beyond[1] > 0:
                    break
                low, high = (self.cut(n, crossing).latency_ms for n in (over, under))
                price = max(round((high - low) / (beyond[0] - beyond[1]) * _TICKS * _PRICE), 1)
                near, value = self.solve(crossing, price=sign * price)
                paid = price / _PRICE / _TICKS * (device.memory_bytes - device.stage_bytes)
                at_least = crossing.fixed_ms + value / _TICKS - paid
                slack = (len(self.profile.tensors) + self.ops) / _TICKS + 1e-12 * (at_least + paid)
                bound = max(bound, at_least - slack)  # rounding adds no more than that
                found.add(near)
                if near in (over, under) or at_least >= low + price / _PRICE / _TICKS * beyond[0] - slack:
                    break
                fits = self.excess(device, near if sign > 0 else self.rest(near)) <= 0
                over, under = (over, near) if fits else (near, under)
        cuts = [self.cut(near, crossing) for near in found if 0 < len(near) < self.ops and self.fits(near)]
        best = min(cuts, key=lambda cut: cut.latency_ms, default=None)
        return best, min(bound, best.latency_ms) if best else bound

    def rest(self, near: frozenset[int]) -> list[int]:
        """Operators of the far site."""
        return [k for k in range(self.ops) if k not in near]

    def plain_cut(self, crossing: _Crossing) -> list[int]:
        """The best cut of those listed that fit, if any."""

        def ms(k: int) -> float:
            moved = 8 * self.costs.raw_bytes(k) / (1000 * crossing.link.mbit_s)
            return self.costs.stage_ms(self.near, 0, k) + self.costs.stage_ms(self.far, k, self.ops) + moved

        works = [
            cut.at
            for cut in self.profile.cuts
            if self.costs.stage_bytes(self.near, 0, cut.at) <= self.near.memory_bytes
            and self.costs.stage_bytes(self.far, cut.at, self.ops) <= self.far.memory_bytes
            and not any(a < cut.at <= b for a, b in self.together)
        ]
        return [min(works, key=ms)] if works else []

    def solve(
        self, crossing: _Crossing, first: int = -1, last: int = -1, price: int = 0
    ) -> tuple[frozenset[int], float]:
        """Near part and cost in ticks of the least cut.

        Args:
            crossing: how to cross.
            first: operator that has to be near; -1 for none.
            last: operator that has to be far; -1 for none.
            price: of a byte of the near device's memory if above 0, of the far one's if below;
                in `_PRICE` parts of a tick.
        """
        net, scale, base = Network(self.ops), _PRICE if price else 1, 0
        for k in range(self.ops):
            near = _ticks(self.near.op_ms[k]) * scale + max(price, 0) * self.near.op_bytes[k]
            far = _ticks(self.far.op_ms[k]) * scale + max(-price, 0) * self.far.op_bytes[k]
            base += min(near, far)  # what it costs on both sites needs no flow
            if near > far:
                net.arc(k, net.sink, near - far)
            elif far > near:
                net.arc(net.source, k, far - near)
        for tensor in self.profile.tensors:
            _join(net, tensor, _ticks(8 * tensor.bytes / (1000 * crossing.link.mbit_s)) * scale)
        for a, b in self.together:
            for k in range(a, b):
                net.arc(k, k + 1, _BARRED, _BARRED)
        if first >= 0:
            net.arc(net.source, first, _BARRED)
        if last >= 0:
            net.arc(last, net.sink, _BARRED)
        near_part, value = net.cut()
        return near_part, (base + value) / scale if value < _BARRED else math.inf


def _join(net: Network, tensor: ModelTensor, size: int) -> None:
    """Crossing is paid once however many read a tensor; nothing flows from far to near."""
    maker = tensor.made if tensor.made >= 0 else net.source
    readers = [*tensor.readers, net.sink] if tensor.output else list(tensor.readers)
    entry = maker
    if len(readers) > 1:
        entry = net.place()
        net.arc(maker, entry, size)
    for reader in readers:
        net.arc(entry, reader, _BARRED if len(readers) > 1 else size)
        if tensor.made >= 0 and reader != net.sink:
            net.arc(reader, maker, _BARRED)


def _ticks(ms: float) -> int:
    return round(ms * _TICKS)
