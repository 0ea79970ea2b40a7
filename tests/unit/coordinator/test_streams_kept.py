"""What becomes of a plan's streams when it is made anew, and beside a candidate."""

from __future__ import annotations

from pathlib import Path

from collab.coordinator.beside import beside
from collab.coordinator.rebuilding import rebuilder
from collab.core.ids import NodeName
from collab.core.plan import NodeRef
from collab.core.streams import SinkRef, SourceRef, StreamSpec
from collab.core.validate import validate
from collab.planner.chains import Wants
from collab.planner.solve import solve
from tests.integration.models import Reference
from tests.integration.test_replan import Measured


def test_streams_stay_where_their_sources_are_and_candidates_have_none(tmp_path: Path):
    digits = Reference.of("digits")
    refs = {name: NodeRef(name=NodeName(name), endpoints=(f"grpc://{name}:1",)) for name in "abc"}
    first, _ = digits.chain([15], ["a", "b"], {name: f"grpc://{name}:1" for name in "ab"})
    stream = StreamSpec(id="door", source=SourceRef(node="c", name="door"), sinks=(SinkRef(name="log"),))
    first = validate(first.replace(nodes=tuple(refs.values()), streams=(stream,)))
    assert beside(first, "candidate").streams == ()

    links = {(x, y): (1.0, 100.0) for x in ("requester", "a", "b") for y in ("requester", "a", "b") if x != y}
    profile = Measured(digits, (1.0,) * first.models[0].ops).profile({"a": 1.0, "b": 1.0}, links)
    best = solve(profile, Wants()).best.chain
    build = rebuilder(first, profile, tmp_path)
    with_source, _ = build(best, list(refs.values()))
    assert with_source.streams == (stream,)
    without, _ = build(best, [refs["a"], refs["b"]])
    assert without.streams == ()
