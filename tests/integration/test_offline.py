"""A node that has lost all others answers alone, and reports when it can be reached again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from collab.cli.files import write_plan
from collab.codec.tensors import Array
from collab.core.plan import Plan
from collab.core.validate import validate
from tests.integration.deployments import endpoints
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, command, peers, running

REQUESTS = 10
KEPT = 4


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[dict[str, NodeProcess]]:
    config = tmp_path / "node.toml"
    config.write_text(f"[node]\nmax_reports = {KEPT}\n", "utf-8")
    nodes = [NodeProcess(name, tmp_path, "--config", str(config)) for name in "ab"]
    with running(nodes):
        yield {node.name: node for node in nodes}


def digest(answer: Mapping[str, Array]) -> str:
    """As a node reports what it answered."""
    return hashlib.sha256(b"".join(array.tobytes() for array in answer.values())).hexdigest()


def state_of(node: NodeProcess) -> tuple[str, int, int]:
    (said,) = json.loads(command("nodes", "--peers", node.place, "--json").out)
    return said["state"], said["reports"]["waiting"], said["reports"]["dropped"]


def with_offline_alternative(digits: Reference, nodes: list[NodeProcess]) -> Plan:
    """A chain on a and b, and the whole model on a."""
    plan, _ = digits.chain([10], ["a", "b"], endpoints(nodes))
    made, _ = digits.chain([], ["a"], endpoints(nodes), name="digits.alone.a")
    alone = made.replace(primary=plan.name, without=("b",), offline=True)
    return validate(plan.replace(alternatives=(alone,)))


def test_a_node_alone_answers_and_its_reports_survive_its_own_death_and_are_taken_once(
    pair: dict[str, NodeProcess], digits: Reference, tmp_path: Path
):
    a, b = pair["a"], pair["b"]
    plan, out = tmp_path / "plan.yaml", tmp_path / "reports.jsonl"
    write_plan(plan, with_offline_alternative(digits, [a, b]))
    assert command("deploy", plan).code == 0
    assert state_of(a) == ("serving", 0, 0)
    b.kill()
    assert state_of(a) == ("offline", 0, 0)
    inputs, expected = digits.save(tmp_path, REQUESTS)
    said = command("run", plan, "--input", inputs, "--expect", expected, "--json")
    report = json.loads(said.out)
    assert (said.code, report["failed"], report["wrong"]) == (0, 0, 0)
    assert report["paths"] == {"alternative:digits.alone.a: a": REQUESTS}
    assert state_of(a) == ("offline", KEPT, REQUESTS - KEPT)

    a.kill()
    a.start()
    b.start()
    fetched = json.loads(command("reports", "--peers", peers([a, b]), "--out", out, "--json").out)
    assert fetched["nodes"] == [
        {"name": "a", "taken": KEPT, "waiting": 0, "dropped": REQUESTS - KEPT},
        {"name": "b", "taken": 0, "waiting": 0, "dropped": 0},
    ]
    kept = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert kept == fetched["reports"]
    assert all(
        (r["node"], r["plan"], r["outcome"], r["alone"]) == ("a", "digits.alone.a", "ok", True) for r in kept
    )
    assert [r["digest"] for r in kept] == [
        digest(answer) for answer in digits.expected[REQUESTS - KEPT : REQUESTS]
    ]
    assert command("reports", "--peers", peers([a, b]), "--out", out).code == 0
    assert len(out.read_text("utf-8").splitlines()) == KEPT
    said = command("run", plan, "--input", inputs, "--expect", expected, "--json")
    assert list(json.loads(said.out)["paths"]) == ["a -> b"]
    assert state_of(a) == ("serving", 0, REQUESTS - KEPT)
