"""Sources and sinks with real nodes: by ``collab run --source``, and placed by the plan on a node."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import paho.mqtt.publish as publish
import pytest

from collab.assets import path as asset
from collab.cli.files import read_plan, write_plan
from collab.coordinator.planning import build_chain, open_model
from collab.core.ids import NodeName, PlanName
from collab.core.plan import NodeRef
from collab.planner.chain import Assignment
from tests.contract.test_answer_sinks import listening
from tests.contract.test_frame_sources import write_clip
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, command, deployed, environment, running
from tests.integration.test_packages import packaged
from tests.mosquitto import mosquitto

PICTURES = 12
WITHIN_S = 30.0


def save(folder: Path, first: int, count: int) -> None:
    """Held-out digits as pictures, put there whole."""
    image = pytest.importorskip("PIL.Image")
    with np.load(asset("digits_heldout.npz")) as held_out:
        for i in range(first, first + count):
            part = folder / f".{i}.part"
            image.fromarray(held_out["images"][i][..., 0]).save(part, format="png")
            part.replace(folder / f"{i}.png")


def lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a file of answers."""
    text = path.read_text("utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def until(probe: Callable[[], Any]) -> Any:
    """What a probe gives once it gives something."""
    deadline = time.monotonic() + WITHIN_S
    while not (found := probe()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def cameras(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    """As `declaring`, for several tests."""
    with running(declaring(tmp_path_factory.mktemp("streams"))) as started:
        yield started


def declaring(folder: Path) -> list[NodeProcess]:
    """Node a declares sources and sinks, b none; the folders are beside their stores."""
    inbox = folder / "inbox"
    inbox.mkdir()
    settings = folder / "a.toml"
    settings.write_text(
        f"""
[sources.inbox]
kind = "folder"
path = "{inbox}"
watch = true
poll_s = 0.1

[sinks.log]
kind = "jsonl"
path = "{folder / "answers.jsonl"}"
""",
        encoding="utf-8",
    )
    return [NodeProcess("a", folder, "--config", str(settings)), NodeProcess("b", folder)]


def planned(folder: Path, nodes: list[NodeProcess]) -> Path:
    """A packaged model in two stages on b."""
    bundle = packaged("digits", folder)
    plan, _ = build_chain(
        PlanName("watched"),
        bundle,
        open_model(bundle),
        [10],
        Assignment(((NodeName("b"),), (NodeName("b"),))),
        [NodeRef(name=NodeName(node.name), endpoints=(node.endpoint,)) for node in nodes],
    )
    path = folder / "plan.yaml"
    write_plan(path, plan)
    return path


@pytest.fixture(scope="module")
def watched(cameras: list[NodeProcess], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The plan, deployed for several tests."""
    path = planned(tmp_path_factory.mktemp("plan"), cameras)
    assert command("deploy", path, "--json").code == 0
    yield path
    assert command("undeploy", path, "--json").code == 0


def answers_of(told: list[dict[str, Any]], digits: Reference) -> None:
    """Every line has the label that the whole model gives."""
    for line in told:
        index = int(line["input"].removesuffix(".png"))
        (want,) = digits.expected[index].values()
        assert line["top"][0]["label"] == f"digit {int(np.argmax(want))}", line


def test_a_folder_is_answered_by_name_in_natural_order(watched: Path, digits: Reference, tmp_path: Path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    save(pictures, 0, PICTURES)
    (pictures / "7.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    out = tmp_path / "answers.jsonl"
    done = command("run", watched, "--source", f"folder:{pictures}", "--sink", f"jsonl:{out}", "--json")
    assert done.code == 1, "one picture is broken"
    told = done.json
    assert (told["frames"], told["answered"], told["dropped"], told["failed"]) == (PICTURES, 11, 0, 1)
    assert told["policy"] == "queue:8"
    found = lines(out)
    assert [line["input"] for line in found] == [f"{i}.png" for i in range(PICTURES)]
    assert [line["sequence"] for line in found] == list(range(PICTURES))
    assert found[7]["error"]["message"].startswith("7.png: cannot be read as a picture")
    answers_of([line for line in found if "top" in line], digits)
    assert {line["via"] for line in found if "top" in line} == {"primary"}


def test_a_plan_places_a_stream_on_the_node_that_declares_its_source(digits: Reference, tmp_path: Path):
    with running(declaring(tmp_path)) as nodes:
        follow_a_stream(nodes, digits, tmp_path)


def follow_a_stream(cameras: list[NodeProcess], digits: Reference, tmp_path: Path) -> None:
    """From deploying it to undeploying, with an update and a restart on the way."""
    a, _ = cameras
    path = planned(tmp_path, cameras)
    inbox, log = a.store.parent / "inbox", a.store.parent / "answers.jsonl"
    peers = ",".join(node.place for node in cameras)
    declared = {node["name"]: node for node in command("nodes", "--peers", peers, "--json").json}
    assert declared["a"]["sources"] == [{"name": "inbox", "kind": "folder", "lacking": None}]
    assert declared["b"]["sinks"] == []

    done = command(
        "stream", path, "--source", "a/inbox", "--sink", "log", "--policy", "queue:64", *("--peers", peers)
    )
    assert done.code == 0, done.err
    assert command("deploy", path, "--json").code == 0
    save(inbox, 0, 5)
    until(lambda: len(lines(log)) >= 5)
    answers_of(lines(log), digits)

    def state() -> dict[str, Any] | None:
        reply = command("status", "--peers", a.place, "--json").json["nodes"][0]
        return next(iter(reply["streams"]), None)

    told = state()
    assert told is not None
    assert (told["state"], told["answered"], told["failed"]) == ("running", 5, 0)
    assert told["sinks"][0]["delivered"] == 5

    assert "watched/inbox" in command("status", "--peers", a.place).err

    # Another version of the plan: the stream goes on with it.
    plan = read_plan(path)
    write_plan(path, plan.replace(tolerance=msgspec.structs.replace(plan.tolerance, atol=0.5)))
    assert command("deploy", path, "--json").json["epoch"] == 2
    save(inbox, 5, 3)
    until(lambda: len(lines(log)) >= 8)

    # And it is there again after a restart of its node; what is in the folder are frames anew.
    assert a.stop() == 0
    a.start()
    until(lambda: len(lines(log)) >= 16)
    answers_of(lines(log), digits)
    assert command("undeploy", path, "--json").code == 0
    until(lambda: state() is None)
    assert not any("error" in line for line in lines(log)), lines(log)


def test_a_plan_cannot_name_what_a_node_does_not_declare(
    cameras: list[NodeProcess], watched: Path, tmp_path: Path
):
    peers = ",".join(node.place for node in cameras)
    before = deployed(cameras)
    for source, sink, text in (
        ("b/inbox", "log", "streams[0].source.name: node 'b' declares no source 'inbox' (it has none)"),
        ("a/inbox", "mail", "streams[0].sinks[0].name: node 'a' declares no sink 'mail' (it has log)"),
    ):
        out = tmp_path / "with.yaml"
        made = command("stream", watched, "--source", source, "--sink", sink, "--out", out, "--peers", peers)
        assert made.code == 0, made.err
        done = command("deploy", out)
        assert (done.code, text in done.err) == (4, True), done.err
        assert "in its settings" in done.err
    assert deployed(cameras) == before


def test_a_video_is_answered_frame_by_frame(watched: Path, tmp_path: Path):
    write_clip(tmp_path / "clip.mp4", 10)
    out = tmp_path / "answers.jsonl"
    options = ("--source", f"file:{tmp_path / 'clip.mp4'}", "--sink", f"jsonl:{out}", "--frames", "7")
    told = command("run", watched, *options, "--concurrency", "3", "--json").json
    assert (told["frames"], told["answered"], told["failed"]) == (7, 7, 0)
    assert {line["input"] for line in lines(out)} == {f"clip.mp4, frame {i}" for i in range(7)}
    assert all(len(line["top"]) == 3 for line in lines(out))
    for source, code, text in (
        ("v4l2:/dev/no-such-camera", 3, "/dev/no-such-camera: cannot be opened"),
        ("rtsp://127.0.0.1:1/front", 3, "rtsp://127.0.0.1:1/front: cannot be opened"),
        (f"file:{tmp_path / 'none.mp4'}", 1, "there is no such file"),
        (f"file:{watched}", 1, "plan.yaml: cannot be opened"),
    ):
        done = command("run", watched, "--source", source, "--json")
        assert (done.code, text in done.err) == (code, True), done.err


def test_messages_are_answered_with_messages(watched: Path, digits: Reference, tmp_path: Path):
    with mosquitto() as broker, listening(broker.port, "answers") as heard:
        place = f"mqtt://127.0.0.1:{broker.port}"
        options = ("--source", f"{place}/frames/%23", "--sink", f"{place}/answers", "--policy", "queue:64")
        process = begin("run", watched, *options, "--frames", "6", "--json")
        (tensor,) = digits.requests[0].values()
        folder = tmp_path / "pictures"
        folder.mkdir()
        save(folder, 0, 5)
        payloads = {f"frames/{i}": (folder / f"{i}.png").read_bytes() for i in range(5)}
        for topic, payload in {"frames/x": tensor.tobytes(), **payloads}.items():
            # Retained, so that it matters not who is there first.
            publish.single(topic, payload, qos=1, retain=True, port=broker.port)
        out, _ = process.communicate(timeout=WITHIN_S)
        assert process.returncode == 0
        told = json.loads(out)
        assert (told["frames"], told["answered"], told["dropped"], told["failed"]) == (6, 6, 0, 0)
        found = [json.loads(heard.get(timeout=WITHIN_S)) for _ in range(6)]
    for line in found:
        index = 0 if line["input"] == "frames/x" else int(line["input"].removeprefix("frames/"))
        (want,) = digits.expected[index].values()
        assert line["top"][0]["label"] == f"digit {int(np.argmax(want))}"


def test_an_interrupt_ends_a_stream_in_order(watched: Path, tmp_path: Path):
    folder, out = tmp_path / "pictures", tmp_path / "answers.jsonl"
    folder.mkdir()
    save(folder, 0, 3)
    process = begin(
        "run", watched, "--source", f"folder:{folder}", "--watch", "--sink", f"jsonl:{out}", "--json"
    )
    until(lambda: len(lines(out)) == 3)
    process.send_signal(signal.SIGINT)
    printed, complaints = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0, complaints
    assert "Traceback" not in complaints
    told = json.loads(printed)
    assert (told["frames"], told["answered"], told["failed"]) == (3, 3, 0)


def begin(*arguments: object) -> subprocess.Popen[str]:
    """A command that goes on."""
    return subprocess.Popen(
        [sys.executable, "-m", "collab", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
