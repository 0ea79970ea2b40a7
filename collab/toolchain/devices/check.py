"""Whether a model fits a device, what runs it there, how long it may take, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from collab.core.profile import DeviceProfile, Profile
from collab.errors import InputError
from collab.graph import Graph
from collab.toolchain.devices.catalogue import Catalogue, Device, Yardstick
from collab.toolchain.devices.facts import OpFacts, facts
from collab.toolchain.devices.measured import REFERENCE_MACS, REFERENCE_MS, Times
from collab.toolchain.devices.memory import Arena, lives, patches, plan_arena
from collab.toolchain.devices.partitions import CPU, Fallback, Partition, fallbacks, partitions

WORTH_IT: Final = 0.5
"""Share of a model's multiplications from which on a delegate is used."""
_INTEGERS: Final = frozenset({"int8", "uint8", "int16"})


@dataclass(frozen=True)
class Model:
    """What checks on all devices share.

    Attributes:
        arena: activations alone.
        with_patches: the same with what LiteRT's own convolutions take.
    """

    graph: Graph
    ops: tuple[OpFacts, ...]
    arena: Arena
    with_patches: Arena

    @classmethod
    def of(cls, graph: Graph) -> Model:
        """Look at a graph once."""
        living = lives(graph)
        return cls(graph, tuple(facts(graph)), plan_arena(living), plan_arena([*living, *patches(graph)]))

    @property
    def weights(self) -> tuple[float, ...]:
        """How operators share the time of a piece: by what they multiply and move."""
        return tuple(float(op.macs + op.moved_bytes) for op in self.ops)

    @property
    def integer(self) -> bool:
        """Whether most multiplications are of integers."""
        share = sum(op.macs for op in self.ops if op.activations & _INTEGERS)
        return 2 * share > sum(op.macs for op in self.ops)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one device: what the model and its runtime take, and what there is."""

    weights: int
    packed: int
    """A second copy of the weights in the order of the kernels, as XNNPACK keeps it."""
    arena: int
    runtime: int
    available: int
    flash: int | None

    @property
    def needed(self) -> int:
        """In memory, flash apart."""
        return self.arena + self.runtime + self.packed + (0 if self.flash is not None else self.weights)

    @property
    def fits(self) -> bool:
        """Whether memory and flash are enough."""
        return self.needed <= self.available and (self.flash is None or self.weights <= self.flash)


@dataclass(frozen=True, slots=True)
class Latency:
    """An estimate of one inference, and what it rests on; `assumed` where nobody measured the device."""

    ms: float
    basis: str
    assumed: bool


@dataclass(frozen=True)
class Report:
    """One model on one device."""

    device: str
    title: str
    delegate: str
    share: float
    """Of multiplications that run on it."""
    fallbacks: tuple[Fallback, ...]
    partitions: tuple[Partition, ...]
    memory: Memory
    latency: Latency | None
    runs: bool
    verdict: str
    remedies: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether it fits and every operator runs."""
        return self.runs and self.memory.fits


def check(
    model: Model,
    name: str,
    catalogue: Catalogue,
    times: Times | None = None,
    profile: Profile | None = None,
) -> Report:
    """Check a model on one device of a catalogue.

    Args:
        model: the model.
        name: of the device.
        catalogue: where it is described.
        times: of the model on this machine, if it runs here.
        profile: times measured on devices; one of the device's name is used.

    Raises:
        UsageError: the device is not known.
        InputError: the profile is another model's.
    """
    device = catalogue.device(name)
    chosen, left, share = _choose(model, device, catalogue)
    delegate = None if chosen == CPU else catalogue.delegates[chosen]
    parts = partitions(len(model.ops), left, chosen)
    memory = _memory(model, device, chosen, left)
    runs = device.unsupported is None and not (delegate is not None and delegate.whole_only and left)
    latency = None
    if profile is not None:
        latency = _profiled(model, name, profile)
    if latency is None and runs:
        latency = _estimated(model, device, parts, times)
    return Report(
        device=name,
        title=device.title,
        delegate=chosen,
        share=share,
        fallbacks=tuple(left),
        partitions=tuple(parts),
        memory=memory,
        latency=latency,
        runs=runs,
        verdict=_verdict(device, chosen, memory, left, runs),
        remedies=tuple(_remedies(model, device, catalogue, chosen, left, memory)),
    )


def _choose(model: Model, device: Device, catalogue: Catalogue) -> tuple[str, list[Fallback], float]:
    """The first delegate that is worth it, what it leaves, and the share that it takes."""
    for name in device.delegates:
        delegate = catalogue.delegates[name]
        left = fallbacks(model.ops, delegate)
        share = _share(model.ops, left)
        if share >= WORTH_IT or delegate.whole_only:
            return name, left, share
    every = [Fallback(op.at, op.name, "no delegate takes enough of the model") for op in model.ops]
    return CPU, every, 0.0


def _share(ops: Sequence[OpFacts], left: Sequence[Fallback]) -> float:
    fallen = {fallback.at for fallback in left}
    # One more each, so that models without multiplications have shares too.
    total = sum(op.macs + 1 for op in ops)
    return sum(op.macs + 1 for op in ops if op.at not in fallen) / total if total else 1.0


def _memory(model: Model, device: Device, chosen: str, left: Sequence[Fallback]) -> Memory:
    own_kernels = chosen == CPU or any(fallback.operator == "CONV_2D" for fallback in left)
    micro = device.kind == "micro"
    return Memory(
        weights=len(model.graph.data),
        packed=model.graph.weight_bytes if chosen == "xnnpack" else 0,
        arena=(model.with_patches if own_kernels and not micro else model.arena).bytes,
        runtime=device.runtime_bytes,
        available=device.memory_bytes,
        flash=device.flash_bytes,
    )


def _profiled(model: Model, name: str, profile: Profile) -> Latency | None:
    if profile.model_sha256 != model.graph.sha256:
        raise InputError(
            f"--profile: is of the model {profile.model_sha256[:16]}, not {model.graph.sha256[:16]}: "
            "measure this one with collab profile"
        )
    found: Mapping[str, DeviceProfile] = {str(entry.name): entry for entry in profile.devices}
    if name not in found:
        return None
    entry = found[name]
    when = f" on {entry.measured_at}" if entry.measured_at else ""
    return Latency(sum(entry.op_ms) + entry.stage_ms, f"measured on {name}{when}", False)


def _estimated(
    model: Model, device: Device, parts: Sequence[Partition], times: Times | None
) -> Latency | None:
    """Each partition by the speed of what runs it."""
    total, assumed = 0.0, False
    bases: dict[str, None] = {}
    for part in parts:
        speed = device.speed.get(part.on, device.speed["cpu"])
        ops = model.ops[part.start : part.stop]
        assumed |= speed.assumed
        on_cpu = part.on not in device.speed and device.kind != "micro"
        if on_cpu and times is not None and not model.integer:
            here = sum(times.op_ms[part.start : part.stop]) * times.speed
            total += here * (REFERENCE_MACS / REFERENCE_MS) / speed.macs_per_ms
            bases[f"times here, scaled by {_said(speed)}"] = None
        else:
            total += sum(op.macs for op in ops) / speed.macs_per_ms
            bases[f"multiplications at the rate of {_said(speed)}"] = None
    return Latency(total, "; ".join(bases), assumed) if parts else None


def _said(speed: Yardstick) -> str:
    kind = "assumed" if speed.assumed else "published"
    threads = "" if speed.threads == 1 else f" with {speed.threads} threads"
    return f"{speed.model} in {speed.ms:g} ms{threads} ({kind}: {speed.source})"


def _verdict(device: Device, chosen: str, memory: Memory, left: Sequence[Fallback], runs: bool) -> str:
    if device.unsupported is not None:
        return f"cannot run: {device.unsupported}"
    if not runs:
        names = ", ".join(dict.fromkeys(f"{one.operator} ({one.reason})" for one in left))
        return f"cannot run: {names}"
    if memory.flash is not None and memory.weights > memory.flash:
        return "does not fit: the file is larger than the flash"
    if not memory.fits:
        return "does not fit: it needs more memory than there is"
    if chosen == CPU:
        return "runs on LiteRT's own kernels: no delegate takes enough of it"
    if left:
        return f"runs; {len(left)} fall back to the processor"
    return f"runs, all of it on {chosen}"


def _remedies(
    model: Model,
    device: Device,
    catalogue: Catalogue,
    chosen: str,
    left: Sequence[Fallback],
    memory: Memory,
) -> list[str]:
    found = []
    best = catalogue.delegates[device.delegates[0]] if device.delegates else None
    float_only = best is not None and not set(best.dtypes) & {"float32"}
    if not model.integer and (not memory.fits or (float_only and device.delegates[0] != chosen)):
        found.append(
            "quantise it to int8 with collab model compress: a quarter of the weights and activations"
        )
    if not memory.fits:
        if memory.arena > memory.available // 2 and memory.arena > memory.weights // 4:
            found.append(
                f"give it a smaller input: activations peak at operator {model.arena.at} "
                f"({model.arena.live_bytes:,} bytes)"
            )
        if device.kind == "linux":
            found.append("split it over two devices: collab plan cuts it and counts each one's memory")
    cache = None if chosen == CPU else catalogue.delegates[chosen].cache_bytes
    if cache is not None and memory.weights > cache:
        found.append(f"get its weights below {cache:,} bytes: the rest travels at each inference")
    if left and chosen != CPU and memory.fits:
        names = ", ".join(sorted({fallback.operator for fallback in left}))
        if len(left) > 1 or model.ops[left[0].at].macs:
            found.append(f"build it without {names}, which {chosen} does not take as they are here")
    if device.notes:
        found.append(device.notes)
    return found
