"""What a gateway tells of its children: as it was said, and bounded."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from collab.codec.pb import control_pb2 as pb
from collab.federated.children import MAX_CHILDREN, MAX_NAME, MAX_REASON, child_message, read_children
from collab.federated.records import Behind

TOLD = (
    Behind(client="ann", kind="counted", samples=40, loss=1.5, seconds=0.25),
    Behind(client="ben", kind="refused", field="delta['b']", reason="is not finite"),
    Behind(client="10.0.0.7:7070", kind="late", reason="no update within 4 s"),
)


def test_what_is_told_of_children_arrives():
    state = pb.TrainingState(children=[child_message(child) for child in TOLD])
    assert read_children(pb.TrainingState.FromString(state.SerializeToString()).children) == TOLD


@given(
    st.builds(
        pb.ChildState,
        name=st.text(max_size=300),
        kind=st.text(max_size=12),
        samples=st.integers(0, (1 << 64) - 1),
        seconds=st.floats(),
        loss=st.none() | st.floats(),
        reason=st.text(max_size=500),
        field=st.text(max_size=500),
    )
)
def test_whatever_is_told_is_bounded(message):
    (child,) = read_children([message])
    assert len(child.client) <= MAX_NAME
    assert max(len(child.reason), len(child.field)) <= MAX_REASON
    assert math.isfinite(child.seconds)
    assert child.loss is None or math.isfinite(child.loss)
    assert child.kind == (message.kind if message.kind in ("counted", "late") else child.kind)


def test_more_children_than_a_gateway_may_have_are_not_looked_at():
    assert len(read_children([child_message(TOLD[0])] * (MAX_CHILDREN + 1))) == MAX_CHILDREN
