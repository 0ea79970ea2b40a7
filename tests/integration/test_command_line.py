"""The main job by the command line alone, as a script would do it."""

from __future__ import annotations

import itertools
import json
import signal
from pathlib import Path

import numpy as np
import yaml

from collab.runtime.litert import LiteRT
from tests.integration.models import IMAGES, Reference
from tests.integration.processes import NodeProcess, collab, peers, running

TIMES = {"latency_ms", "bottleneck_ms"}
TENSOR = {"name", "shape", "dtype", "bytes"}


def test_a_script_gets_from_nodes_to_answers_and_back(tmp_path: Path, digits: Reference):
    nodes = [NodeProcess(name, tmp_path) for name in "abc"]
    with running(nodes):
        _nodes_introduce_themselves(nodes)
        plan = tmp_path / "plan.yaml"
        _plan_as_assigned(nodes, digits, plan)
        _deploy_twice(nodes, plan)
        _run(tmp_path, digits, plan)
        _status(nodes, plan)
        _undeploy(nodes, plan)
        for node in nodes:
            assert node.stop(signal.SIGTERM) == 0
            assert node.events[-1] == {"event": "drained", "name": node.name, "unfinished": 0}


def _nodes_introduce_themselves(nodes: list[NodeProcess]) -> None:
    for node in nodes:
        assert node.events == [{"event": "ready", "name": node.name, "endpoints": [node.endpoint]}]
        assert node.endpoint.startswith("grpc://127.0.0.1:")
    listed = collab("nodes", "--peers", peers(nodes), "--json").json
    assert [entry["name"] for entry in listed] == ["a", "b", "c"]
    for entry, node in zip(listed, nodes, strict=True):
        assert {"name", "endpoints", "device", "memory_bytes", "models", "state"} <= entry.keys()
        assert entry["endpoints"] == [node.endpoint]
        assert entry["state"] == "serving"
        assert entry["models"] == []
        assert entry["memory_bytes"] > 1 << 28
    by_variable = collab("nodes", "--json", env={"COLLAB_PEERS": peers(nodes)}).json
    assert [entry["name"] for entry in by_variable] == ["a", "b", "c"]


def _plan_as_assigned(nodes: list[NodeProcess], digits: Reference, plan: Path) -> None:
    arguments = ("plan", digits.path, "--peers", peers(nodes), "--out", plan, "--no-alternatives", "--json")
    ordered = collab(*arguments, "--assign", "c,a,b", "--name", "digits").json
    assert [stage["nodes"] for stage in ordered["stages"]] == [["c"], ["a"], ["b"]]
    bounds = [stage["ops"] for stage in ordered["stages"]]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == 30
    assert all(left[1] == right[0] for left, right in itertools.pairwise(bounds))
    chosen = collab(*arguments, "--at", "12,25", "--assign", "a,b+c,c", "--name", "digits").json
    assert chosen["stages"] == [
        {"ops": [0, 12], "nodes": ["a"]},
        {"ops": [12, 25], "nodes": ["b", "c"]},
        {"ops": [25, 30], "nodes": ["c"]},
    ]
    assert chosen["predicted"].keys() >= TIMES
    assert chosen["best_single"].keys() >= TIMES
    assert chosen["runners_up"]
    assert all(entry.keys() >= TIMES for entry in chosen["runners_up"])
    assert 0 < chosen["predicted"]["bottleneck_ms"] <= chosen["predicted"]["latency_ms"]
    written = yaml.safe_load(plan.read_text())
    assert written["name"] == "digits"
    assert [node["name"] for node in written["nodes"]] == ["a", "b", "c"]
    assert [node["endpoints"] for node in written["nodes"]] == [[node.endpoint] for node in nodes]


def _deploy_twice(nodes: list[NodeProcess], plan: Path) -> None:
    first = collab("deploy", plan, "--json").json
    assert first.keys() == {"plan", "epoch", "changed", "sent_bytes"}
    assert (first["plan"], first["epoch"], first["changed"]) == ("digits", 1, True)
    assert all(first["sent_bytes"][node.name] > 10_000 for node in nodes)
    again = collab("deploy", plan, "--peers", peers(nodes), "--json").json
    assert again == {"plan": "digits", "epoch": 1, "changed": False, "sent_bytes": {"a": 0, "b": 0, "c": 0}}
    held = {
        entry["name"]: entry["models"] for entry in collab("nodes", "--peers", peers(nodes), "--json").json
    }
    assert [len(held[name]) for name in "abc"] == [1, 1, 2]
    assert held["b"][0] in held["c"]


def _run(tmp_path: Path, digits: Reference, plan: Path) -> None:
    inputs, expected = digits.save(tmp_path)
    answers = tmp_path / "got.npz"
    arguments = ("run", plan, "--input", inputs, "--expect", expected, "--json")
    report = collab(*arguments, "--output", answers, "--repeat", 3, "--concurrency", 6).json
    assert (report["requests"], report["failed"], report["wrong"]) == (3 * IMAGES, 0, 0)
    assert report["compared"] == "exact"
    assert report["latency_ms"].keys() == {"p50", "p95", "p99"}
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p95"] <= report["latency_ms"]["p99"]
    assert report["throughput_rps"] > 0
    assert [hop["stage"] for hop in report["hops"]] == ["stage-0", "stage-1", "stage-2", "wire"]
    assert all(hop["compute_ms"] > 0 for hop in report["hops"][:-1])
    assert report["hops"][-1]["estimated"] is True
    assert report["paths"].keys() == {"a -> b -> c", "a -> c -> c"}, "both replicas have work"
    assert sum(report["paths"].values()) == 3 * IMAGES
    with np.load(answers) as got, np.load(expected) as want:
        assert got.files == ["probabilities"]
        assert got["probabilities"].tobytes() == want["probabilities"].tobytes()
        assert got["probabilities"].shape == (IMAGES, 1, 10)
        wrong = want["probabilities"].copy()
    np.savez(tmp_path / "one.npz", **digits.requests[0])
    collab("run", plan, "--input", tmp_path / "one.npz", "--output", answers)
    with np.load(answers) as got:
        assert got["probabilities"].tobytes() == digits.expected[0]["probabilities"].tobytes()
        assert got["probabilities"].shape == (1, 10), "one request without a leading axis gives one answer"
    wrong[7].flat[3] = np.nextafter(wrong[7].flat[3], np.float32(2))
    np.savez(tmp_path / "wrong.npz", probabilities=wrong)
    caught = collab("run", plan, "--input", inputs, "--expect", tmp_path / "wrong.npz", "--json", code=1).json
    assert (caught["failed"], caught["wrong"]) == (0, 1), "the last bit of one number of one answer"
    close = collab(
        "run", plan, "--input", inputs, "--expect", tmp_path / "wrong.npz", "--atol", "1e-5", "--json"
    )
    assert (close.json["compared"], close.json["wrong"]) == ("close", 0)


def _status(nodes: list[NodeProcess], plan: Path) -> None:
    digest = None
    for entry in collab("status", "--peers", peers(nodes), "--json").json["nodes"]:
        (loaded,) = entry["plans"]
        assert (loaded["plan"], loaded["epoch"], loaded["state"], loaded["in_flight"]) == (
            "digits",
            1,
            "serving",
            0,
        )
        assert digest in (None, loaded["digest"])
        digest = loaded["digest"]
        assert entry["resident_bytes"] > 1 << 20
        assert entry["counters"]["forged"] == entry["counters"]["malformed"] == 0
        assert {peer["name"] for peer in entry["peers"]} >= {"a", "b", "c"} - {entry["name"]} - {"a"}
    text = collab("status", "--peers", peers(nodes)).err
    assert "stage-1" in text
    assert "serving" in text


def _undeploy(nodes: list[NodeProcess], plan: Path) -> None:
    assert collab("undeploy", plan, "--json").json == {
        "plan": "digits",
        "unloaded": {n.name: [1] for n in nodes},
    }
    assert collab("undeploy", plan, "--json").json["unloaded"] == {node.name: [] for node in nodes}
    for entry in collab("status", "--peers", peers(nodes), "--json").json["nodes"]:
        assert [(p["plan"], p["epoch"], p["state"]) for p in entry["plans"]] == [("digits", 1, "unloaded")]


def test_inspect_split_and_verify_keep_their_contract(tmp_path: Path, digits: Reference):
    looked = collab("model", "inspect", digits.path, "--json").json
    assert {"model_sha256", "inputs", "outputs", "ops", "weight_bytes", "cuts"} <= looked.keys()
    assert (looked["ops"], len(looked["cuts"])) == (30, 29)
    assert looked["model_sha256"] == digits.graph.sha256
    assert [cut["at"] for cut in looked["cuts"]] == list(range(1, 30))
    assert all(t.keys() == TENSOR for t in (*looked["inputs"], *looked["outputs"]))
    for cut in looked["cuts"]:
        assert all(tensor.keys() == TENSOR for tensor in cut["tensors"])
        assert cut["bytes"] == sum(tensor["bytes"] for tensor in cut["tensors"])

    out = tmp_path / "stages"
    said = collab("model", "split", digits.path, "--at", "12,25", "--out", out, "--json").json
    manifest = json.loads((out / "manifest.json").read_text())
    assert said == manifest
    assert {"model_sha256", "inputs", "outputs", "stages"} <= manifest.keys()
    assert (manifest["inputs"], manifest["outputs"]) == (["image"], ["probabilities"])
    assert [stage["ops"] for stage in manifest["stages"]] == [[0, 12], [12, 25], [25, 30]]
    tensors = dict(digits.requests[0])
    for stage in manifest["stages"]:
        assert {"id", "file", "sha256", "ops", "inputs", "outputs"} <= stage.keys()
        loaded = LiteRT().load(out / stage["file"])
        assert [spec.name for spec in loaded.inputs] == stage["inputs"]
        assert [spec.name for spec in loaded.outputs] == stage["outputs"]
        made = loaded.run([tensors[name] for name in stage["inputs"]])
        tensors |= dict(zip(stage["outputs"], made, strict=True))
        loaded.close()
    assert digits.same(0, {"probabilities": tensors["probabilities"]})

    proven = collab("model", "verify", digits.path, "--at", "12,25", "--json").json
    assert {"tried", "exact", "inexact", "refused", "max_abs_diff"} <= proven.keys()
    assert (proven["tried"], proven["exact"], proven["inexact"], proven["max_abs_diff"]) == (1, 1, 0, 0)
    assert proven["refused"] == []
    sampled = collab("model", "verify", digits.path, "--sample", 3, "--json").json
    assert (sampled["tried"], sampled["exact"]) == (3, 3)


def test_the_demo_compares_with_the_whole_model():
    found = collab("demo", "--nodes", 2, "--images", 20, "--json").json
    assert found["equal"] is True
    assert found["compared"] == 60
    assert found["accuracy"].keys() == {"whole", "distributed"}
    assert found["accuracy"]["whole"] == found["accuracy"]["distributed"] > 0.9
    assert found["latency_ms"]["p50"] > 0
    assert found["throughput_rps"] > 0


def test_the_demo_leaves_its_model_and_data_to_the_other_commands(tmp_path: Path):
    folder = tmp_path / "files"
    written = collab("demo", "--files", folder, "--json").json["files"]
    assert sorted(written) == sorted(map(str, folder.iterdir()))
    proven = collab(
        "model", "verify", folder / "digits.tflite", "--at", "9", "--input", folder / "x.npz", "--json"
    )
    assert proven.json["exact"] == 1
    with np.load(folder / "x.npz") as x, np.load(folder / "y.npz") as y:
        stage = LiteRT().load(folder / "digits.tflite", 1)
        assert np.array_equal(stage.run([x["image"][-1]])[0], y["probabilities"][-1])
        stage.close()
        assert len(x["image"]) == len(y["probabilities"]) == 100
        (asked,) = json.loads((folder / "request.json").read_text())["inputs"]
        assert np.allclose(np.reshape(asked["data"], asked["shape"]), x["image"][0], atol=1e-6)
    (tmp_path / "file").touch()
    assert "--files" in collab("demo", "--files", tmp_path / "file", code=1).errors[0]
