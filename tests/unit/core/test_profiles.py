"""Profile files are read, checked, merged and aged; what is wrong is named."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from collab.core.profile import (
    CodecAt,
    CodecSpeed,
    CutProfile,
    DeviceProfile,
    LinkEntry,
    ModelTensor,
    Profile,
    ThreadedTimes,
    to_json,
)
from collab.core.profiles import MAX_PROFILE_BYTES, aged, check, check_model, decode_profile, merge
from collab.errors import PlanError

EARLY, LATE = "2030-01-01T12:00:00+00:00", "2030-01-02T12:00:00Z"


def device(name: Any, **more: Any) -> DeviceProfile:
    fields: dict[str, Any] = {"memory_bytes": 1000, "op_ms": (1.0, 0.0, 3.0), "op_bytes": (1, 0, 3)}
    return DeviceProfile(name=name, **fields | more)


def link(source: Any, target: Any, **more: Any) -> LinkEntry:
    fields: dict[str, Any] = {"latency_ms": 1.0, "mbit_s": 100.0}
    return LinkEntry(source=source, target=target, **fields | more)


def profile(**more: Any) -> Profile:
    fields: dict[str, Any] = {
        "model_sha256": "f" * 64,
        "requester": "phone",
        "input_bytes": 40,
        "output_bytes": 4,
        "cuts": (CutProfile(at=1, bytes=10), CutProfile(at=2, bytes=20)),
        "devices": (device("a"), device("b")),
        "links": (link("phone", "a"), link("a", "b"), link("b", "phone")),
    }
    return Profile(**fields | more)


def document(**more: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(to_json(profile()))
    return made | more


def test_what_a_person_writes_by_hand_is_read():
    text = json.dumps(
        {
            "model_sha256": "anything",
            "requester": None,
            "input_bytes": 8,
            "output_bytes": 8,
            "cuts": [{"at": 1, "bytes": 4}],
            "devices": [{"name": "d0", "memory_bytes": 100, "op_ms": [1, 2.5], "op_bytes": [3, 4]}],
            "links": [],
        }
    )
    assert decode_profile(text.encode()).devices[0].op_ms == (1.0, 2.5)


def test_a_profile_comes_back_as_it_was_written():
    full = profile(
        devices=(
            device("a", more_threads=(ThreadedTimes(threads=2, op_ms=(1.0, 1.0, 1.0)),), measured_at=LATE),
            device("b", codecs=(CodecSpeed(codec="int8", encode_mb_s=1.0, decode_mb_s=2.0),), load=0.2),
        ),
        tensors=(ModelTensor(name="t", bytes=4, made=-1, readers=(0, 2)),),
        operators=("ADD", "MUL", "SUB"),
        input_codecs=(CodecAt(codec="lz4", ratio=2.0),),
    )
    again = decode_profile(to_json(full))
    assert again == full
    assert again.digest == full.digest != profile().digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"devices": ()}, "devices: there is none"),
        ({"version": 2}, "version: 2"),
        ({"devices": (device("a", op_ms=(), op_bytes=()),)}, "devices[0].op_ms: there is no operator"),
        ({"devices": (device("a"), device("b", op_ms=(1.0,)))}, "devices[1].op_ms: 1 values"),
        ({"devices": (device("a", op_bytes=(1, 2)), device("b"))}, "devices[0].op_bytes: 2 values"),
        ({"devices": (device("a", op_ms=(1.0, -1.0, 0.0)), device("b"))}, "devices[0].op_ms[1]: -1"),
        ({"devices": (device("a", op_ms=(1.0, float("nan"), 0.0)), device("b"))}, "devices[0].op_ms[1]: nan"),
        ({"devices": (device("a", op_ms=(1.0, float("inf"), 0.0)), device("b"))}, "devices[0].op_ms[1]: inf"),
        ({"devices": (device("a", op_bytes=(1, -2, 0)), device("b"))}, "devices[0].op_bytes[1]: -2"),
        ({"devices": (device("a", memory_bytes=0), device("b"))}, "devices[0].memory_bytes: 0"),
        ({"devices": (device("a"), device("b", stage_ms=-0.5))}, "devices[1].stage_ms: -0.5"),
        ({"devices": (device("a"), device("b"), device("a"))}, "devices[2]: name 'a' stands there twice"),
        ({"devices": (device("a"), device("b c"))}, "devices[1].name: 'b c'"),
        (
            {"devices": (device("a", more_threads=(ThreadedTimes(threads=2, op_ms=(1.0,)),)), device("b"))},
            "devices[0].more_threads[0].op_ms: 1 values",
        ),
        (
            {
                "devices": (
                    device("a", more_threads=(ThreadedTimes(threads=1, op_ms=(1.0,) * 3),)),
                    device("b"),
                )
            },
            "devices[0].more_threads[0]: threads '1' stands there twice",
        ),
        (
            {
                "devices": (
                    device("a", codecs=(CodecSpeed(codec="int8", encode_mb_s=0.0, decode_mb_s=1.0),)),
                    device("b"),
                )
            },
            "devices[0].codecs[0].encode_mb_s: 0",
        ),
        ({"devices": (device("a", measured_at="yesterday"), device("b"))}, "devices[0].measured_at"),
        ({"devices": (device("a", measured_at="2030-01-01T00:00:00"), device("b"))}, "with a zone"),
        ({"cuts": (CutProfile(at=0, bytes=1),)}, "cuts[0].at: 0 is out of range"),
        ({"cuts": (CutProfile(at=3, bytes=1),)}, "cuts of 3 operators are 1 to 2"),
        ({"cuts": (CutProfile(at=2, bytes=1), CutProfile(at=1, bytes=1))}, "cuts[1].at: 1 comes after 2"),
        (
            {"cuts": (CutProfile(at=2, bytes=1), CutProfile(at=2, bytes=1))},
            "cuts[1].at: 2 stands there twice",
        ),
        ({"cuts": (CutProfile(at=2, bytes=-1),)}, "cuts[0].bytes: -1"),
        (
            {"cuts": (CutProfile(at=1, bytes=1, codecs=(CodecAt(codec="int9", ratio=1.0),)),)},
            "cuts[0].codecs[0].codec: codec 'int9' is not known",
        ),
        (
            {"cuts": (CutProfile(at=1, bytes=1, codecs=(CodecAt(codec="int8", ratio=0.0),)),)},
            "cuts[0].codecs[0].ratio: 0",
        ),
        (
            {"input_codecs": (CodecAt(codec="lz4", ratio=1.0), CodecAt(codec="raw+lz4", ratio=1.0))},
            "input_codecs[1]: codec 'raw+lz4' stands there twice",
        ),
        (
            {"links": (link("phone", "a"), link("a", "b", mbit_s=-1.0))},
            "links[1].mbit_s: -1; give more than 0",
        ),
        ({"links": (link("phone", "a", mbit_s=0.0),)}, "links[0].mbit_s: 0"),
        ({"links": (link("phone", "a", latency_ms=float("nan")),)}, "links[0].latency_ms: nan"),
        ({"links": (link("phone", "a", loss=1.5),)}, "links[0].loss: 1.5"),
        ({"links": (link("phone", "a"), link("a", "c"))}, "links[1].to: 'c' is neither a device nor"),
        ({"links": (link("phone", "a"), link("a", "a"))}, "links[1].to: 'a' is the link's other end"),
        ({"links": (link("phone", "a"), link("phone", "a"))}, "links[1]: link 'phone a grpc' stands there"),
        ({"links": (link("phone", "a", transport=""),)}, "links[0].transport"),
        ({"requester": "nobody"}, "requester: 'nobody' is no device, and no link names it"),
        ({"input_bytes": -1}, "input_bytes: -1"),
        ({"operators": ("ADD",)}, "operators: 1 names for 3"),
        ({"tensors": (ModelTensor(name="t", bytes=4, made=3),)}, "tensors[0].made: 3"),
        ({"tensors": (ModelTensor(name="t", bytes=4, made=1, readers=(1,)),)}, "tensors[0].readers"),
    ],
)
def test_what_is_wrong_with_a_profile_is_named(change: dict[str, Any], words: str):
    with pytest.raises(PlanError) as error:
        check(profile(**change))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_requester_may_be_a_device_that_no_link_names():
    check(profile(requester="a", links=()))
    check(profile(requester=None, links=(link("a", "b"),)))
    check(profile(links=(link("phone", "a"), link("phone", "a", transport="mqtt"), link("a", "phone"))))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "profile"),
        ("{", "not a profile"),
        ("\xff", "not a profile"),
        (json.dumps(document(surprise=1)), "unknown field `surprise`"),
        (json.dumps(document(devices=[{"name": "a"}])), "devices[0]: Object missing required field"),
        (json.dumps(document(links=[document()["links"][0] | {"mbit_s": None}])), "links[0].mbit_s: "),
    ],
)
def test_what_is_no_profile_is_refused_in_one_line(text: str, words: str):
    with pytest.raises(PlanError) as error:
        decode_profile(text.encode("latin-1"))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_too_large_is_not_even_parsed():
    with pytest.raises(PlanError, match="bytes are over"):
        decode_profile(bytes(MAX_PROFILE_BYTES + 1))


@given(st.binary(max_size=200))
def test_no_bytes_bring_anything_but_a_plan_error(data: bytes):
    with pytest.raises(PlanError):
        decode_profile(data)


def test_another_models_profile_is_refused():
    check_model(profile(), "f" * 64)
    with pytest.raises(PlanError, match=r"model_sha256: .*'ffff.*'0000"):
        check_model(profile(), "0" * 64)


def test_merging_takes_of_each_device_and_link_the_newer():
    old = profile(
        devices=(device("a", op_ms=(1.0, 1.0, 1.0), measured_at=LATE), device("b", measured_at=EARLY)),
        links=(link("phone", "a", mbit_s=1.0, measured_at=EARLY), link("a", "b", mbit_s=1.0)),
    )
    new = profile(
        devices=(
            device("a", op_ms=(2.0, 2.0, 2.0), measured_at=EARLY),
            device("b", op_ms=(2.0, 2.0, 2.0), measured_at=LATE),
            device("c", measured_at=LATE),
        ),
        links=(link("phone", "a", mbit_s=2.0, measured_at=LATE), link("b", "a", mbit_s=2.0)),
    )
    both = merge(old, new)
    assert [(d.name, d.op_ms[0]) for d in both.devices] == [("a", 1.0), ("b", 2.0), ("c", 1.0)]
    assert [(e.source, e.target, e.mbit_s) for e in both.links] == [
        ("phone", "a", 2.0),
        ("a", "b", 1.0),
        ("b", "a", 2.0),
    ]
    assert merge(new, new) == new


def test_merging_keeps_what_only_the_older_says():
    int8, lz4 = (CodecSpeed(codec=c, encode_mb_s=1.0, decode_mb_s=1.0) for c in ("int8", "lz4"))
    old = profile(
        devices=(device("a", codecs=(int8,), watts=4.0, measured_at=EARLY),),
        cuts=(CutProfile(at=1, bytes=10, codecs=(CodecAt(codec="int8", ratio=4.0),)),),
        links=(link("phone", "a", metered=True, joules_per_mb=0.5, measured_at=EARLY),),
        operators=("X", "Y", "Z"),
    )
    new = profile(
        devices=(device("a", codecs=(lz4,), threads=2, measured_at=LATE),),
        cuts=(CutProfile(at=1, bytes=10, codecs=(CodecAt(codec="lz4", ratio=1.5),)),),
        links=(link("phone", "a", measured_at=LATE),),
    )
    both = merge(old, new)
    (merged,) = both.devices
    assert {speed.codec for speed in merged.codecs} == {"int8", "lz4"}
    assert merged.watts == 4.0
    assert merged.threads == 2
    assert [more.threads for more in merged.more_threads] == [1]
    assert {entry.codec for entry in both.cuts[0].codecs} == {"int8", "lz4"}
    assert both.links[0].metered
    assert both.links[0].joules_per_mb == 0.5
    assert both.operators == ("X", "Y", "Z")


def test_links_of_another_requester_do_not_stay():
    old = profile(requester="desk", links=(link("desk", "a"), link("a", "b")))
    both = merge(old, profile(links=(link("phone", "b"),)))
    assert [(e.source, e.target) for e in both.links] == [("a", "b"), ("phone", "b")]


def test_profiles_of_two_models_do_not_merge():
    with pytest.raises(PlanError, match="model_sha256: the profiles are of two models"):
        merge(profile(), replace(profile(), model_sha256="0" * 64))


def test_what_is_old_is_listed_and_what_has_no_date_is_not():
    dated = profile(
        devices=(device("a", measured_at=EARLY), device("b", measured_at=LATE)),
        links=(link("phone", "a", measured_at=EARLY), link("a", "b")),
    )
    now = datetime(2030, 1, 3, 12, tzinfo=timezone(timedelta(hours=0)))
    assert aged(dated, now, timedelta(days=1, hours=12)) == (
        "device a: measured 2.0 days ago",
        "link phone → a (grpc): measured 2.0 days ago",
    )
    assert aged(dated, now, timedelta(days=3)) == ()


@pytest.mark.parametrize(
    ("spread", "says"),
    [
        (((0.0, 1.0), (0.5, 1.0)), "shares"),
        (((0.0, 1.0), (0.7, 1.1), (0.6, 1.2), (1.0, 2.0)), "shares"),
        (((0.0, 1.0), (1.0, 0.9)), "factors"),
        (((0.0, -1.0), (1.0, 0.9)), r"\[0\]\[1\]"),
    ],
)
def test_a_spread_of_runs_that_cannot_be_is_named(spread, says):
    with pytest.raises(PlanError, match=rf"devices\[0\]\.run_quantiles.*{says}"):
        check(profile(devices=(device("a", run_quantiles=spread), device("b"))))
