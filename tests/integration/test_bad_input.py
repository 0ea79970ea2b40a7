"""Mistakes by the command line: one line that names the fault, the right code, nothing half-deployed."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, collab, command, deployed, peers, running

FAILED, USAGE, UNREACHABLE, REFUSED = 1, 2, 3, 4
NOBODY = "127.0.0.1:1"


@dataclass
class Scene:
    """Three nodes with a plan deployed, and files to make mistakes with."""

    nodes: list[NodeProcess]
    folder: Path
    plan: Path
    inputs: Path
    model: Path

    @property
    def peers(self) -> str:
        return peers(self.nodes)

    def file(self, name: str, content: bytes | str) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def npz(self, name: str, **arrays: Any) -> Path:
        np.savez(self.folder / name, **arrays)
        return self.folder / name

    def changed_plan(self, change: Callable[[Any], Any]) -> Path:
        """The deployed plan with a change, as a file of its own."""
        tree = yaml.safe_load(self.plan.read_text())
        return self.file("changed.yaml", yaml.safe_dump(change(tree) or tree, sort_keys=False))


@pytest.fixture(scope="module")
def scene(trio: list[NodeProcess], tmp_path_factory: pytest.TempPathFactory, digits: Reference) -> Scene:
    folder = tmp_path_factory.mktemp("scene")
    plan = folder / "plan.yaml"
    arguments = ("--at", "12,25", "--assign", "a,b,c", "--name", "digits", "--no-alternatives", "--out", plan)
    collab("plan", digits.path, "--peers", peers(trio), *arguments)
    collab("deploy", plan)
    inputs, _ = digits.save(folder, 2)
    return Scene(trio, folder, plan, inputs, digits.path)


@pytest.fixture(autouse=True)
def nothing_changes_on_the_nodes(scene: Scene) -> Iterator[None]:
    before = deployed(scene.nodes)
    yield
    assert deployed(scene.nodes) == before


def refused(code: int, words: str, *arguments: object, process: bool = False) -> None:
    """The command fails with a code and one line that has the words; under --json it says so there too.

    It runs in this process unless a ``process`` of its own is wanted.
    """
    done = collab(*arguments, code=code) if process else command(*arguments)
    assert done.code == code, done
    assert len(done.errors) == 1, done.err
    for word in words.split(" … "):
        assert word in done.errors[0], done.errors[0]
    if "--json" in arguments:
        said = done.json["error"]
        assert said["message"] == done.errors[0].removeprefix("error: ")


# --- models ----------------------------------------------------------------------------


def broken_models() -> dict[str, Callable[[Scene], Path]]:
    def truncated(scene: Scene) -> Path:
        data = scene.model.read_bytes()
        return scene.file("truncated.tflite", data[: len(data) // 2])

    return {
        "missing": lambda scene: scene.folder / "nowhere.tflite",
        "empty": lambda scene: scene.file("empty.tflite", b""),
        "truncated": truncated,
        "no TFLite": lambda scene: scene.file("text.tflite", "this is no model\n" * 100),
        "a directory": lambda scene: scene.folder,
    }


@pytest.mark.parametrize("fault", broken_models())
def test_a_model_that_is_none_is_refused(scene: Scene, fault: str):
    model = broken_models()[fault](scene)
    refused(FAILED, str(model), "model", "inspect", model, "--json", process=True)
    refused(FAILED, str(model), "plan", model, "--peers", scene.peers, "--json")


def test_a_broken_model_is_refused_by_split_and_verify_too(scene: Scene):
    model = broken_models()["truncated"](scene)
    refused(FAILED, str(model), "model", "split", model, "--at", "3", "--out", scene.folder / "out")
    refused(FAILED, str(model), "model", "verify", model, "--at", "3")


@pytest.mark.parametrize(
    ("at", "code", "words"),
    [
        ("0", FAILED, "0 … 1 … 29"),
        ("30", FAILED, "30"),
        ("-1", FAILED, "-1"),
        ("25,12", FAILED, "12"),
        ("12,12", FAILED, "12"),
        ("twelve", USAGE, "--at 'twelve' … numbers"),
        ("12,", USAGE, "--at"),
        ("", USAGE, "--at"),
    ],
)
def test_a_cut_that_cannot_be_made_is_refused(scene: Scene, at: str, code: int, words: str):
    assign = "a,b,c" if "," in at else "a,b"
    arguments = ("plan", scene.model, "--peers", scene.peers, "--assign", assign, f"--at={at}", "--json")
    refused(code, words, *arguments)


def test_a_split_that_cannot_be_made_writes_nothing(scene: Scene):
    out = scene.folder / "never"
    refused(FAILED, "25", "model", "split", scene.model, "--at", "25,12", "--out", out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("assign", "words"),
    [
        ("a,nobody,c", "'nobody' … a, b, c"),
        ("a,b", "2 entries for 3 stages"),
        ("a,b,c,a", "4 entries for 3 stages"),
        ("a,b+b,c", "twice"),
        ("a,,c", "''"),
    ],
)
def test_an_assignment_that_does_not_fit_is_refused(scene: Scene, assign: str, words: str):
    arguments = ("plan", scene.model, "--peers", scene.peers, "--at", "12,25", "--assign", assign, "--json")
    refused(USAGE, words, *arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--threads", 0), "--threads 0"),
        (("--credits", 0), "--credits 0"),
        (("--codecs", "zip"), "'zip' … raw"),
        (("--codecs", "raw,raw", "--at", "12,25"), "2 entries for 4 links"),
        (("--transport", "grpc,grpc", "--assign", "a,b"), "2 entries for 3 links"),
        (("--codecs", "raw,raw"), "give --at or --assign"),
        (("--codecs", "int8"), "--codec-error"),
        (("--objective", "speed"), "--objective 'speed' … latency"),
        (("--frontier", "latency"), "--frontier 'latency' … two"),
        (("--max-replicas", 0), "--max-replicas 0"),
        (("--name", "no/slash"), "--name"),
    ],
)
def test_an_option_of_plan_out_of_range_is_refused(scene: Scene, options: tuple[object, ...], words: str):
    code = FAILED if "--name" in options else USAGE
    refused(code, words, "plan", scene.model, "--peers", scene.peers, "--json", *options)


# --- plans -----------------------------------------------------------------------------


def _stage(tree: Any, index: int) -> Any:
    return tree["stages"][index]


PLAN_FAULTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "gap": (lambda tree: _stage(tree, 1).update(ops=[13, 25]), "ops: gap, operators [12, 13)"),
    "overlap": (lambda tree: _stage(tree, 1).update(ops=[11, 25]), "ops: overlap, operators [11, 12)"),
    "cycle": (
        lambda tree: tree["edges"].append({"source": "stage-1", "target": "stage-0", "tensors": ["image"]}),
        "cycle",
    ),
    "unknown field": (lambda tree: tree.update(colour="red"), "colour"),
    "unknown field of a stage": (lambda tree: _stage(tree, 2).update(colour="red"), "stages … colour"),
    "number for text": (lambda tree: tree.update(name=5), "name"),
    "text for number": (lambda tree: tree.update(credits="many"), "credits"),
    "object for list": (lambda tree: tree.update(stages={}), "stages"),
    "unknown node": (lambda tree: _stage(tree, 0).update(nodes=["z"]), "stages[0] … 'z'"),
    "no stages": (lambda tree: tree.update(stages=[]), "stages"),
    "wrong version": (lambda tree: tree.update(version=99), "version: 99"),
    "list": (lambda tree: [tree], "object"),
    "unknown combiner": (
        lambda tree: (
            _stage(tree, 2).update(combine="acclamation", model="model"),
            [_stage(tree, 2).pop(name) for name in ("ops", "sha256")],
            _stage(tree, 1).update(ops=[12, 30]),
            None,
        )[-1],
        "stages[2] … 'acclamation'",
    ),
    "unknown codec": (lambda tree: tree["edges"][1].update(codec="zip"), "edges[1].codec … 'zip' … raw"),
    "unknown transport": (
        lambda tree: tree["edges"][2].update(transport="carrier-pigeon"),
        "edges[2].transport … 'carrier-pigeon'",
    ),
    "unknown back end": (lambda tree: _stage(tree, 1).update(backend="abacus"), "'abacus' … litert"),
    "stage of another digest": (
        lambda tree: _stage(tree, 1).update(sha256="0" * 64),
        "stages[1].sha256 … 000000000000",
    ),
    "model of another digest": (lambda tree: tree["models"][0].update(sha256="1" * 64), "models[0] … digest"),
    "model that is gone": (lambda tree: tree["models"][0].update(path="/nowhere.tflite"), "/nowhere.tflite"),
    "tensor of another shape": (
        lambda tree: _stage(tree, 1)["inputs"][0].update(shape=[1, 2, 3]),
        "stage-1",
    ),
}


@pytest.mark.parametrize("fault", PLAN_FAULTS)
def test_a_plan_that_breaks_a_rule_is_refused_before_anything_is_deployed(scene: Scene, fault: str):
    change, words = PLAN_FAULTS[fault]
    refused(FAILED, words, "deploy", scene.changed_plan(change), "--json", process=fault == "gap")


LEVELS = 9
BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, LEVELS + 1)
)
TYPED_BOMB = (
    "name: bomb\nmodels: []\ninputs: []\noutputs: []\nedges: []\nnodes: []\nstages:\n"
    "- &s {id: s, nodes: [a], outputs: [], inputs: [&t {name: t, dtype: float32, shape: &d ["
    + ",".join("1" for _ in range(200))
    + "]}, "
    + ",".join("*t" for _ in range(200))
    + "]}\n"
    + "- *s\n" * 200
)
TEXT_FAULTS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "object"),
    "garbage": ("{[}]: : :\n\t- nonsense", "not YAML"),
    "binary": (bytes(range(256)) * 10, "not YAML"),
    "text": ("a plan for the weekend\n", "object"),
    "bomb": (BOMB, "aliases"),
    "bomb of the right types": (TYPED_BOMB, "aliases"),
    "merge bomb": (
        "a0: &a0 {x: 1}\n"
        + "".join(f"a{i}: &a{i}\n  <<: [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)),
        "aliases",
    ),
    "cycle of aliases": ("stages: &a [*a]\n", "cycle"),
    "deep": ("[" * 20_000, "not YAML"),
    "object of Python": ("name: !!python/object/apply:os.system ['true']\n", "not YAML"),
    "date that is none": ("name: 2024-13-45\n", "not YAML"),
    "key twice": ("name: a\nname: b\n", "'name' stands there twice"),
}


@pytest.mark.parametrize("fault", TEXT_FAULTS)
def test_a_plan_file_that_is_none_is_refused(scene: Scene, fault: str):
    content, words = TEXT_FAULTS[fault]
    path = scene.file("fault.yaml", content)
    refused(FAILED, f"{path} … {words}", "deploy", path, "--json", process="bomb" in fault)


def test_a_plan_file_that_is_missing_is_refused_by_every_command(scene: Scene):
    for words in (("deploy",), ("undeploy",), ("run", "--input", scene.inputs)):
        refused(FAILED, "nowhere.yaml", words[0], scene.folder / "nowhere.yaml", *words[1:], "--json")


def test_a_plan_that_is_not_deployed_cannot_be_run(scene: Scene):
    other = scene.changed_plan(lambda tree: tree.update(name="other"))
    refused(
        FAILED, "'other' is not deployed … collab deploy", "run", other, "--input", scene.inputs, "--json"
    )
    changed = scene.changed_plan(lambda tree: tree.update(credits=5))
    refused(FAILED, "another version … collab deploy", "run", changed, "--input", scene.inputs, "--json")


# --- peers -----------------------------------------------------------------------------


def test_a_node_that_does_not_run_is_named(scene: Scene):
    refused(UNREACHABLE, NOBODY, "nodes", "--peers", NOBODY, "--json", process=True)
    refused(UNREACHABLE, NOBODY, "status", "--peers", f"{scene.peers},{NOBODY}", "--json")
    refused(UNREACHABLE, NOBODY, "plan", scene.model, "--peers", f"{scene.peers},{NOBODY}", "--json")

    def move(tree: Any) -> None:
        tree["name"] = "moved"
        tree["nodes"][2]["endpoints"] = [f"grpc://{NOBODY}"]

    moved = scene.changed_plan(move)
    refused(UNREACHABLE, f"'c' … {NOBODY}", "deploy", moved, "--json")
    refused(UNREACHABLE, f"'c' … {NOBODY}", "run", moved, "--input", scene.inputs, "--json")


def test_another_node_at_the_address_is_no_substitute(scene: Scene):
    def swap(tree: Any) -> None:
        tree["name"] = "swapped"
        first, second, _ = tree["nodes"]
        first["endpoints"], second["endpoints"] = second["endpoints"], first["endpoints"]

    refused(UNREACHABLE, "'a' … 'b' answers there", "deploy", scene.changed_plan(swap), "--json")


def test_peers_that_are_no_addresses_are_refused(scene: Scene):
    refused(USAGE, "no peers … --peers", "status", "--json")
    refused(USAGE, "127.0.0.1", "nodes", "--peers", "127.0.0.1", "--json")
    refused(USAGE, "pigeon", "nodes", "--peers", "pigeon://a:1", "--json")
    twice = scene.nodes[0].place
    refused(USAGE, "two peers are named 'a'", "nodes", "--peers", f"{twice},{twice}", "--json")


def test_a_network_off_loopback_needs_two_flags(tmp_path: Path):
    store = ("--store", tmp_path / "store")
    anywhere = ("node", "--name", "n", "--listen", "0.0.0.0:0", *store)
    refused(REFUSED, "0.0.0.0 … --insecure", *anywhere, "--json", process=True)
    refused(REFUSED, "0.0.0.0", *anywhere, "--insecure", process=True)
    refused(USAGE, "--insecure", *anywhere, "--insecure-network", process=True)
    refused(REFUSED, "192.0.2.1", "nodes", "--peers", "192.0.2.1:7070", "--json")
    with NodeProcess("n", tmp_path, "--listen", "0.0.0.0:0", "--insecure", "--insecure-network") as node:
        assert "not encrypted" in node.text()


def test_a_node_with_wrong_settings_does_not_start(tmp_path: Path):
    file = tmp_path / "node.toml"
    file.write_text('[node]\nname = "n"\ncolour = "red"\n')
    refused(USAGE, "colour", "node", "--config", file, "--json", process=True)
    refused(USAGE, "name … --name", "node", "--listen", "127.0.0.1:0", "--json", process=True)
    store = ("--store", tmp_path / "store")
    refused(FAILED, "--name", "node", "--name", "no/slash", *store, "--json", process=True)
    refused(USAGE, "here", "node", "--name", "n", "--listen", "here", *store, "--json", process=True)


def test_an_address_in_use_is_named(scene: Scene, tmp_path: Path):
    place = scene.nodes[0].place
    done = collab("node", "--name", "n", "--listen", place, "--store", tmp_path / "store", code=None)
    assert done.code == USAGE
    assert len(done.errors) == 1
    assert place in done.errors[0]


# --- requests --------------------------------------------------------------------------


def _pickled(scene: Scene) -> Path:
    objects = np.empty(2, dtype=object)
    objects[:] = [{"a": 1}, {"b": 2}]
    np.savez(scene.folder / "pickled.npz", image=objects)
    return scene.folder / "pickled.npz"


def _huge_header(scene: Scene) -> Path:
    """Claims a tensor of 8 TB."""
    member = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}
    np.lib.format.write_array_header_1_0(member, header)
    path = scene.folder / "huge.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", member.getvalue())
    return path


def _cut_short(scene: Scene) -> Path:
    return scene.file("short.npz", scene.inputs.read_bytes()[:-100])


IMAGE = np.zeros((1, 28, 28, 1), np.float32)
INPUT_FAULTS: dict[str, tuple[Callable[[Scene], Path], str]] = {
    "missing": (lambda scene: scene.folder / "nowhere.npz", "nowhere.npz: No such file"),
    "empty": (lambda scene: scene.file("empty.npz", b""), "not an .npz"),
    "not npz": (lambda scene: scene.file("text.npz", "no arrays here"), "not an .npz"),
    "cut short": (_cut_short, "short.npz"),
    "single array": (lambda scene: scene.file("one.npz", _npy(IMAGE)), "single array"),
    "pickled": (_pickled, "pickled"),
    "huge": (_huge_header, "huge.npz"),
    "wrong name": (lambda scene: scene.npz("n.npz", picture=IMAGE), "'picture' … 'image'"),
    "one too many": (lambda scene: scene.npz("m.npz", image=IMAGE, other=IMAGE), "'other'"),
    "nothing": (lambda scene: scene.npz("z.npz"), "'image' … missing"),
    "dtype": (lambda scene: scene.npz("d.npz", image=IMAGE.astype(np.float64)), "float64 … float32"),
    "text": (lambda scene: scene.npz("t.npz", image=np.array(["a"])), "'image' … float32"),
    "rank": (lambda scene: scene.npz("r.npz", image=IMAGE[0]), "[28, 28, 1] … [1, 28, 28, 1]"),
    "shape": (lambda scene: scene.npz("s.npz", image=IMAGE[:, :27]), "[1, 27, 28, 1]"),
    "zero requests": (lambda scene: scene.npz("0.npz", image=IMAGE[None][:0]), "no request"),
}


def _npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


@pytest.mark.parametrize("fault", INPUT_FAULTS)
def test_inputs_that_do_not_fit_are_refused(scene: Scene, fault: str):
    make, words = INPUT_FAULTS[fault]
    path = make(scene)
    refused(
        FAILED, f"--input … {words}", "run", scene.plan, "--input", path, "--json", process=fault == "pickled"
    )


def test_raw_files_need_a_bundle_that_says_how_they_become_tensors(scene: Scene):
    words = f"--input {scene.folder}: raw files … --bundle"
    refused(USAGE, words, "run", scene.plan, "--input", scene.folder, "--json")


def test_expected_answers_that_do_not_fit_are_refused(scene: Scene):
    run = ("run", scene.plan, "--input", scene.inputs, "--json", "--expect")
    three = scene.npz("three.npz", probabilities=np.zeros((3, 1, 10), np.float32))
    refused(FAILED, "3 answers for 2 requests", *run, three)
    refused(FAILED, "--expect 'image' … 'probabilities'", *run, scene.inputs)
    refused(FAILED, "--expect … nowhere", *run, scene.folder / "nowhere.npz")


@pytest.mark.parametrize(
    "option",
    [
        ("--repeat", 0),
        ("--repeat", -1),
        ("--concurrency", 0),
        ("--deadline-ms", 0),
        ("--deadline-ms", "nan"),
        ("--deadline-ms", "inf"),
        ("--atol", -1),
        ("--rtol", "nan"),
    ],
)
def test_a_number_out_of_range_is_refused(scene: Scene, option: tuple[str, object]):
    name, value = option
    refused(USAGE, f"{name} {value}", "run", scene.plan, "--input", scene.inputs, f"{name}={value}", "--json")


def test_answers_that_cannot_be_written_are_refused_before_anything_runs(scene: Scene):
    output = scene.folder / "no" / "where.npz"
    refused(FAILED, "--output", "run", scene.plan, "--input", scene.inputs, "--output", output, "--json")


def test_a_deadline_that_cannot_be_met_fails_every_request(scene: Scene):
    done = collab(
        "run", scene.plan, "--input", scene.inputs, "--deadline-ms", "0.1", "--repeat", 3, "--json", code=1
    )
    assert (done.json["requests"], done.json["failed"]) == (6, 6)
    assert all("within 0.1 ms" in text for text in done.json["errors"]), done.json["errors"]


def test_a_tensor_over_the_nodes_limit_is_refused_before_anything_is_deployed(
    tmp_path: Path, digits: Reference
):
    small = NodeProcess("small", tmp_path, "--max-tensor-bytes", "1000")
    large = NodeProcess("large", tmp_path)
    plan = tmp_path / "plan.yaml"
    with running([large, small]) as nodes:
        collab("plan", digits.path, "--peers", peers(nodes), "--at", "12", "--out", plan)
        before = deployed(nodes)
        for assign in ("large,small", "small,large"):
            collab("plan", digits.path, "--peers", peers(nodes), "--at=12", "--assign", assign, "--out", plan)
            refused(REFUSED, "edges[ … 'small' takes 1000", "deploy", plan, "--json")
            assert deployed(nodes) == before


def test_a_node_restarted_with_a_smaller_limit_refuses_each_request_by_name(
    tmp_path: Path, digits: Reference
):
    inputs, _ = digits.save(tmp_path, 2)
    plan = tmp_path / "plan.yaml"
    with NodeProcess("n", tmp_path) as node:
        collab("plan", digits.path, "--peers", node.place, "--assign", "n", "--out", plan)
        collab("deploy", plan)
        node.stop()
        again = NodeProcess("n", tmp_path, "--max-tensor-bytes", "1000")
        with again:
            assert "takes 1000" in again.text()
            arguments = ("--peers", again.place, "--input", inputs, "--json")
            refused(FAILED, "not deployed on node 'n'", "run", plan, *arguments)


# --- one node of several ---------------------------------------------------------------


def test_a_plan_that_one_node_cannot_prepare_leaves_nothing_on_the_others(scene: Scene, digits: Reference):
    """Node c's store takes no write: its part of the new plan cannot be kept."""
    import resource

    victim = scene.nodes[2].process.pid
    soft, hard = resource.prlimit(victim, resource.RLIMIT_FSIZE)
    plan = scene.folder / "wider.yaml"
    arguments = ("--at", "10,20", "--assign", "a,b,c", "--name", "wider", "--out", plan)
    collab("plan", digits.path, "--peers", scene.peers, *arguments)
    resource.prlimit(victim, resource.RLIMIT_FSIZE, (scene.nodes[2].log.stat().st_size, hard))
    try:
        refused(FAILED, "'c' … cannot write", "deploy", plan, "--json", process=True)
    finally:
        resource.prlimit(victim, resource.RLIMIT_FSIZE, (soft, hard))
    report = collab("run", scene.plan, "--input", scene.inputs, "--json").json
    assert report["failed"] == 0, "what was deployed goes on"


def test_the_old_plan_can_be_run_after_all_these_mistakes(scene: Scene, digits: Reference):
    _, expected = digits.save(scene.folder, 2)
    report = collab("run", scene.plan, "--input", scene.inputs, "--expect", expected, "--json").json
    assert (report["failed"], report["wrong"]) == (0, 0)
    assert json.loads(json.dumps(report)) == report
