"""Faults as errors, and the arithmetic of hops."""

from __future__ import annotations

import pytest

from collab.core.token import Fault, Hop, Kind
from collab.errors import DeadlineExceeded, RemoteError, StageFailed


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("stage_failed", "broke", "a", "s"), "node 'a', stage 's': broke"),
        (Fault("stage_failed", "node 'a', stage 's': broke", "a", "s"), "node 'a', stage 's': broke"),
        (Fault("stage_failed", "broke", "a"), "broke"),
        (Fault("stage_failed", "broke", "", "s"), "broke"),
        (Fault("stage_failed", "broke"), "broke"),
    ],
)
def test_a_fault_says_once_where_it_happened(fault, message):
    error = fault.to_error()
    assert type(error) is StageFailed
    assert str(error) == message


def test_a_fault_becomes_the_class_of_its_code():
    assert type(Fault("deadline", "late").to_error()) is DeadlineExceeded
    assert type(Fault("from-the-future", "?").to_error()) is RemoteError


def test_the_time_in_a_node_is_the_sum_of_its_parts():
    assert Hop(0, "a", 1, 20, 300, 4000).total_us == 4321


def test_the_kinds_have_the_numbers_of_the_wire():
    from collab.codec.pb import envelope_pb2 as pb

    assert {kind.name: kind.value for kind in Kind} == {n: v for n, v in pb.Kind.items() if v}
