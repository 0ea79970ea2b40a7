"""``collab release status|activate|rollback|pin|history`` over a store with packaged models."""

from __future__ import annotations

import hashlib
import json
import time

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from collab import assets
from collab.cli import release_status, release_store
from collab.errors import Conflict, ModelError, UsageError
from collab.runtime.litert import LiteRT
from collab.updates.bundle.manifest import About, Port
from collab.updates.bundle.write import Parts, encode_bundle
from collab.updates.health.gate import Bounds
from collab.updates.health.runner import Runner
from collab.updates.health.sequential import Rates
from collab.updates.release import Release, ReleaseInfo
from collab.updates.store.disk import RealDisk, file_parts
from collab.updates.store.store import Store

DIGITS = assets.path("digits.tflite").read_bytes()


def call(*words):
    app = typer.Typer()
    release_store.register(app)
    release_status.register(app)
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def packaged(version: int, wrong: bool = False) -> bytes:
    """The digits model with two golden inputs, and answers that are right or not."""
    backend = LiteRT()
    stage = backend.load(DIGITS, 1)
    inputs = [np.random.default_rng(version).random((2, *stage.inputs[0].shape), np.float32)]
    outputs = np.stack([stage.run([row])[0] for row in inputs[0]]) + np.float32(wrong)
    ports = [Port(name=one.name, shape=one.shape, dtype=one.dtype) for one in (*stage.inputs, *stage.outputs)]
    return encode_bundle(
        Parts(
            about=About(name="digits", version=str(version)),
            model=DIGITS,
            inputs=ports[:1],
            outputs=ports[1:],
            golden=(
                {ports[0].name: inputs[0]},
                {ports[1].name: outputs},
                str(backend.runtime_class()),
            ),
        )
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "digits"


def fetch(folder, version, data):
    path = folder.parent / "fetched"
    path.write_bytes(data)
    release = Release(
        name=f"digits/stable/{version}.collab",
        version=version,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        custom=ReleaseInfo(family="digits", version=version),
    )
    store = Store(RealDisk(folder), time.time)
    store.add(release, file_parts(path))
    return store


def test_a_life_by_commands(folder):
    fetch(folder, 1, packaged(1))
    shown = json.loads(call("status", folder, "--json").stdout)
    assert (shown["active"], shown["candidate"]["version"]) == (None, 1)
    assert json.loads(call("activate", folder, "--json").stdout)["active"]["version"] == 1
    store = fetch_healthy(folder, 2)
    call("activate", folder)
    store.healthy()
    shown = json.loads(call("rollback", folder, "--reason", "misreads sevens", "--json").stdout)
    assert (shown["active"]["version"], shown["activation"], shown["highest"]) == (1, 3, 2)
    assert json.loads(call("pin", folder, "--json").stdout)["pinned"]
    assert "pinned" in call("status", folder).stderr
    assert not json.loads(call("pin", folder, "--off", "--json").stdout)["pinned"]
    events = json.loads(call("history", folder, "--json").stdout)["history"]
    assert [event["action"] for event in events][-3:] == ["rolled back", "pinned", "unpinned"]
    assert events[-3]["reason"] == "misreads sevens"


def fetch_healthy(folder, version):
    Store(RealDisk(folder), time.time).healthy()
    return fetch(folder, version, packaged(version))


def test_wrong_golden_answers_are_not_activated_by_hand_either(folder):
    store = fetch(folder, 1, packaged(1, wrong=True))
    with pytest.raises(ModelError, match="2 of 2 golden answers are wrong"):
        call("activate", folder)
    assert store.state().active is None


def test_a_folder_without_a_store_is_said_so(folder):
    with pytest.raises(UsageError, match="no store of releases is there"):
        call("status", folder)
    assert not folder.exists()


def test_nothing_to_activate_is_said_so(folder):
    fetch(folder, 1, packaged(1)).drop("by hand")
    with pytest.raises(Conflict, match="fetch a release first"):
        call("activate", folder)


@pytest.mark.parametrize(("worse", "action"), [(False, "healthy"), (True, "dropped")])
def test_a_runner_judges_packaged_models_over_litert(folder, worse, action):
    store = fetch(folder, 1, packaged(1))
    bounds = Bounds(
        copies=1.0,
        probation=20,
        canaries=1,
        touched=0.2,
        disagreement=Rates(fine=0.05, worse=0.4),
        slowness=Rates(fine=0.5, worse=0.99),
        slow_factor=50.0,
    )
    runner = Runner(store, folder, LiteRT(), time.monotonic, bounds=bounds)
    rng = np.random.default_rng(2)

    def ask(times):
        for _ in range(times):
            runner.answer([rng.random(shape, np.float32)])
            runner.catch_up()

    runner.start()
    runner.catch_up()
    shape = LiteRT().load(DIGITS, 1).inputs[0].shape
    ask(20)
    assert store.state().healthy
    fetch(folder, 2, packaged(2, wrong=worse))
    ask(120)
    runner.close()
    found = store.state()
    assert (found.history[-1].action, found.active.version) == (action, 1 if worse else 2)
