"""Devices are of one type only if swapping them changes nothing."""

from __future__ import annotations

import msgspec
import pytest

from collab.core.profile import CutProfile, DeviceProfile, LinkEntry, Profile
from collab.planner.evaluate import Evaluator
from collab.planner.types import device_types

NAMES = ["a", "b", "c"]


def alike() -> Profile:
    return Profile(
        model_sha256="0" * 64,
        input_bytes=1,
        output_bytes=1,
        cuts=(CutProfile(at=1, bytes=1),),
        devices=tuple(
            DeviceProfile(name=name, memory_bytes=9, op_ms=(1.0, 2.0), op_bytes=(1, 2)) for name in NAMES
        ),
        links=tuple(
            LinkEntry(source=a, target=b, latency_ms=1.0, mbit_s=9.0, measured_at=a)
            for a in [*NAMES, "out"]
            for b in [*NAMES, "out"]
            if a != b
        ),
        requester="out",
    )


def test_equal_devices_are_one_type_whenever_they_were_measured():
    assert device_types(Evaluator(alike()), NAMES, []) == [("a", "b", "c")]


def test_a_named_device_and_the_requester_are_types_of_their_own():
    assert device_types(Evaluator(alike()), NAMES, ["b"]) == [("a", "c"), ("b",)]
    made = msgspec.structs.replace(alike(), requester="a")
    assert device_types(Evaluator(made), NAMES, []) == [("a",), ("b", "c")]


@pytest.mark.parametrize(
    "change", [{"latency_ms": 2.0}, {"mbit_s": 1.0}, {"metered": True}, {"transport": "mqtt"}]
)
def test_one_other_link_makes_another_type(change):
    made = alike()
    links = tuple(
        msgspec.structs.replace(link, **change) if (link.source, link.target) == ("out", "c") else link
        for link in made.links
    )
    assert device_types(Evaluator(msgspec.structs.replace(made, links=links)), NAMES, []) == [
        ("a", "b"),
        ("c",),
    ]


@pytest.mark.parametrize(
    "change", [{"memory_bytes": 8}, {"op_ms": (1.0, 3.0)}, {"watts": 1.0}, {"stage_ms": 1.0}]
)
def test_one_other_figure_makes_another_type(change):
    made = alike()
    devices = (msgspec.structs.replace(made.devices[0], **change), *made.devices[1:])
    changed = msgspec.structs.replace(made, devices=devices)
    assert device_types(Evaluator(changed), NAMES, []) == [("a",), ("b", "c")]
