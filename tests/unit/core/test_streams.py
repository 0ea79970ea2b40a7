"""What a plan may say of streams."""

from __future__ import annotations

import msgspec
import pytest

from collab.core import validate as rules
from collab.core.plan import from_json, to_json
from collab.core.preprocessing import ImageSteps, Preprocessing
from collab.core.streams import (
    LATEST,
    FramePolicy,
    Reading,
    SinkRef,
    SourceRef,
    StreamSpec,
    check_declared,
    parse_policy,
)
from collab.errors import BackendError, InputError, PlanError, Refused
from tests.unit.core.trees import chain as tree

STREAM = StreamSpec(id="door", source=SourceRef(node="a", name="camera"), sinks=(SinkRef(name="log"),))


PLAN = rules.convert_plan(tree())


def changed(**changes: object) -> StreamSpec:
    return msgspec.structs.replace(STREAM, **changes)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("latest", LATEST),
        ("queue:4", FramePolicy(4, drops=False)),
        ("queue:4:wait", FramePolicy(4, drops=False)),
        ("queue:4:drop-oldest", FramePolicy(4, drops=True)),
    ],
)
def test_policies_are_read(text: str, policy: FramePolicy):
    assert parse_policy(text, "policy") == policy
    assert parse_policy(str(policy), "policy") == policy


@pytest.mark.parametrize(
    "text", ["", "queue", "queue:", "queue:0", "queue:1025", "queue:٣", "queue:4:x", "first"]
)
def test_other_policies_are_refused(text: str):
    with pytest.raises(InputError, match=r"^policy: "):
        parse_policy(text, "policy")


def test_a_plan_with_a_stream_travels_and_has_another_digest():
    plan = PLAN
    with_stream = rules.validate(plan.replace(streams=(STREAM,)))
    assert from_json(to_json(with_stream)) == with_stream
    assert with_stream.digest != plan.digest
    assert with_stream.replace(streams=()).digest == plan.digest


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (changed(source=SourceRef(node="zz", name="camera")), "streams[0].source.node: 'zz' is not listed"),
        (changed(source=SourceRef(node="a", name="/dev/video0")), "streams[0].source.name: '/dev/video0'"),
        (changed(sinks=()), "streams[0].sinks: 0 of them"),
        (
            changed(sinks=(SinkRef(name="log", node="b"),)),
            "streams[0].sinks[0].node: 'b' is not the source's",
        ),
        (changed(sinks=(SinkRef(name="https://x"),)), "streams[0].sinks[0].name: 'https://x'"),
        (changed(policy="newest"), "streams[0].policy: 'newest'"),
        (changed(fps=0.0), "streams[0].fps: 0.0"),
        (changed(deadline_ms=float("nan")), "streams[0].deadline_ms: nan"),
        (changed(concurrency=0), "streams[0].concurrency: 0"),
        (changed(id="a/b"), "streams[0].id: 'a/b'"),
        (
            changed(
                reading=Reading(
                    preprocessing=Preprocessing(steps=ImageSteps(height=1, width=1, colour="rgb"))
                )
            ),
            "streams[0].reading.preprocessing: makes",
        ),
    ],
)
def test_a_stream_that_breaks_a_rule_is_named(stream: StreamSpec, text: str):
    with pytest.raises(PlanError) as caught:
        rules.validate(PLAN.replace(streams=(stream,)))
    assert str(caught.value).startswith(text)


def test_two_streams_of_one_id_are_refused():
    with pytest.raises(PlanError, match="stands there twice"):
        rules.validate(PLAN.replace(streams=(STREAM, STREAM)))


def test_a_node_is_asked_for_what_it_declares():
    check_declared([STREAM], "a", {"camera": ""}, {"log": ""})
    check_declared([STREAM], "b", {}, {})
    with pytest.raises(Refused, match=r"streams\[0\]\.source\.name: node 'a' declares no source 'camera'"):
        check_declared([STREAM], "a", {}, {"log": ""})
    with pytest.raises(Refused, match=r"streams\[0\]\.sinks\[0\]\.name: node 'a' declares no sink 'log'"):
        check_declared([STREAM], "a", {"camera": ""}, {})
    with pytest.raises(BackendError, match="pip install"):
        check_declared([STREAM], "a", {"camera": "av is missing: pip install 'collab[video]'"}, {"log": ""})
