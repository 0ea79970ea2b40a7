"""Whom a controller tells what, and when; and what a node without an identity says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from collab.codec.pb import control_pb2 as pb
from collab.coordinator.controller import RevocationPush
from collab.core.ids import NodeName
from collab.errors import Refused
from collab.node.control import NodeControl
from collab.node.verbs import Caller


def test_everybody_is_told_a_new_list_at_once_and_failures_again_soon():
    push = RevocationPush(["a", "b"])
    assert push.due(b"1", 0.0) == ["a", "b"]
    push.told("a", b"1", 0.0)
    push.failed("b", 0.0)
    assert push.due(b"1", 1.0) == []
    assert push.due(b"1", 6.0) == ["b"]
    assert push.due(b"2", 7.0) == ["a", "b"]
    push.told("a", b"1", 7.0)  # of the old list; the new one is still due
    assert push.due(b"2", 7.0) == ["a", "b"]


async def test_a_node_without_an_identity_refuses_a_list():
    control = NodeControl(SimpleNamespace(security=None))
    with pytest.raises(Refused, match="no identity"):
        await control.put_revocations(Caller(NodeName("o"), "operator"), pb.PutRevocationsRequest(crl=b""))
