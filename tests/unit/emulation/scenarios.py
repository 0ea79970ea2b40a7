"""Scenarios small enough to work out by hand."""

from __future__ import annotations

from typing import Any

from collab.core.profile import CutProfile, DeviceProfile, Profile
from collab.emulation.results import Asking, Results
from collab.emulation.scenario import Scenario, convert_scenario
from collab.emulation.simulator import Inputs, simulate
from tests.unit.core.trees import SHA

WIRE = {"name": "wire", **{way: {"delay_ms": 5, "rate_mbit_s": 8} for way in ("up", "down")}}
"""5 ms and 8 Mbit/s each way: a byte takes a microsecond."""

FREE = {"message_us": 0, "ns_per_byte": 0, "header_bytes": 0}
"""A stack that costs nothing."""

PROFILE = Profile(
    model_sha256=SHA,
    input_bytes=1000,
    output_bytes=2000,
    cuts=(CutProfile(at=2, bytes=4000),),
    devices=(
        DeviceProfile(name="fast", memory_bytes=10**9, op_ms=(1.0,) * 5, op_bytes=(1,) * 5),
        DeviceProfile(name="slow", memory_bytes=10**9, op_ms=(2.0,) * 5, op_bytes=(1,) * 5),
    ),
    links=(),
)


def tree(**changes: Any) -> dict[str, Any]:
    """Two hosts beside the requester's, all joined by wires, and a plan of two stages."""
    fields = {
        "name": "small",
        "requester": "me",
        "hosts": {"me": {"device": "slow"}, "a": {"device": "fast"}, "b": {"device": "slow"}},
        "topology": {"shape": "mesh", "profile": WIRE},
        "plans": [{"name": "two", "at": [2], "assign": ["a", "b"]}],
        "workload": {"kind": "closed", "requests": 3},
        "stack": FREE,
    }
    return fields | changes


def scenario(**changes: Any) -> Scenario:
    return convert_scenario(tree(**changes))


def run(**changes: Any) -> Results:
    return simulate(scenario(**changes), Inputs(PROFILE))


def latencies(askings: tuple[Asking, ...]) -> list[float]:
    return [asking.latency_ms for asking in askings]
