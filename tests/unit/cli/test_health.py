from __future__ import annotations

import subprocess
import sys

import pytest

from collab.cli.health import USUAL, NodePlace, own_place
from collab.errors import UsageError


@pytest.mark.parametrize(
    ("listen", "place"),
    [
        ((), USUAL),
        (("0.0.0.0:7071",), "127.0.0.1:7071"),
        (("10.0.0.7:7070", "127.0.0.1:7071"), "10.0.0.7:7070"),
        (("[::]:7070",), "[::1]:7070"),
        (("coap+tcp://0.0.0.0:5683", "grpc://0.0.0.0:7072"), "127.0.0.1:7072"),
    ],
)
def test_a_node_is_asked_where_its_settings_have_it_listen(listen, place):
    assert own_place(NodePlace(listen=listen)) == place


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (NodePlace(no_listen=True), "no_listen"),
        (NodePlace(listen=("127.0.0.1:0",)), "--address"),
        (NodePlace(listen=("coap+tcp://0.0.0.0:5683",)), "gRPC"),
    ],
)
def test_a_node_that_cannot_be_asked_is_said_so(settings, words):
    with pytest.raises(UsageError, match=words):
        own_place(settings)


def test_its_settings_are_a_node_s():
    from collab.node.config import NodeConfig

    assert {
        name: NodeConfig.__annotations__[name] for name in NodePlace.__struct_fields__
    } == NodePlace.__annotations__


def test_a_check_imports_neither_other_commands_nor_what_runs_models():
    code = """
import sys
sys.argv = ["collab", "health", "--address", "127.0.0.1:1", "--insecure"]
from collab.cli.main import main
try:
    main()
except SystemExit as end:
    costly = {"numpy", "google.protobuf", "collab.cli.node", "collab.node.config", "rich.console"}
    print(end.code, *sorted(costly & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout == "3\n"
    assert "connection refused" in done.stderr
