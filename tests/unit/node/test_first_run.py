"""Stages that run once in a process of their own, and what is made of how it ended."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from collab.core.ids import Digest, StageId
from collab.core.plan import ReleaseRef
from collab.errors import BackendError, ModelError
from collab.node.config import RuntimeConfig
from collab.node.first_run import (
    MAX_REMEMBERED,
    Fate,
    FirstRuns,
    Order,
    Said,
    StageTry,
    concerns,
    judge,
    run_stages,
)
from collab.runtime.base import RuntimeClass
from collab.runtime.function import Functions
from tests.unit.functions import chain, data, functions, spec

CLASS = RuntimeClass("function", "1", "any", (), "none")
RUNTIME = RuntimeConfig(first_run_s=20.0)


def stage(name: str = "s0", number: int = 0, folder: Path = Path()) -> StageTry:
    return StageTry(StageId(name), str(folder / name), Digest(f"{number:064x}"), "function", 1)


TWO = Order((stage("s0"), stage("s1", 1)), RUNTIME)
S0, S1 = [[Said(StageId(name), "begins"), Said(StageId(name), "ran")] for name in ("s0", "s1")]
BAD = Said(StageId("s1"), "failed", "model", "no model")


@pytest.mark.parametrize(
    ("said", "fate", "code", "words"),
    [
        ([*S0, *S1], "ended", 0, None),
        ([*S0, *S1], "ended", -signal.SIGSEGV, "stage 's1'.*ended by SIGSEGV; the model is broken"),
        ([*S0, *S1], "ended", 1, "stage 's1'.*exit code 1"),
        (S0, "ended", 0, "stage 's0'.*exit code 0"),
        ([*S0, S1[0]], "ended", -signal.SIGABRT, "stage 's1'.*SIGABRT"),
        ([*S0, S1[0]], "ended", -signal.SIGKILL, r"stage 's1'.*SIGKILL \(out of memory\?\)"),
        ([*S0, S1[0]], "ended", -63, "signal 63"),
        ([], "ended", -signal.SIGILL, "stage 's0', 's1'.*SIGILL"),
        ([*S0, S1[0], BAD], "ended", 0, "stage 's1': its first run failed: no model"),
        (
            [*S0, S1[0]],
            "too long",
            -signal.SIGKILL,
            "stage 's1'.*did not end within 20 s; raise runtime.first",
        ),
        (
            [*S0, S1[0]],
            "too large",
            -signal.SIGKILL,
            "stage 's1'.*took more memory than this device has left",
        ),
        ([*S0, S1[0]], "too much said", -signal.SIGKILL, "too much said"),
    ],
)
def test_what_is_made_of_a_first_run(said: list[Said], fate: Fate, code: int, words: str | None):
    error = judge(TWO, said, fate, code, RUNTIME.first_run_s)
    if words is None:
        assert error is None
        return
    with pytest.raises(ModelError if BAD in said else BackendError, match=words):
        raise error or AssertionError("it was let through")


def test_updates_are_plans_of_releases_and_of_models_that_took_a_place():
    plain, _ = chain("a")
    ref = plain.models[0]
    release = msgspec.structs.replace(ref, release=ReleaseRef(family="f", version=2, sha256=Digest("1" * 64)))
    retrained = msgspec.structs.replace(ref, origin=Digest("2" * 64))
    for models, update in (((ref,), False), ((release,), True), ((ref, retrained), True)):
        plan = plain.replace(models=models)
        assert [concerns(plan, setting) for setting in ("off", "updates", "all")] == [False, update, True]


# --- in the process ------------------------------------------------------------------


def answers(folder: Path, backend: Functions) -> list[Said]:
    said: list[Said] = []
    tries = (stage("s0", 0, folder), stage("s1", 1, folder))
    for number, one in enumerate(tries):
        Path(one.path).write_bytes(data(number))
    run_stages(Order(tries, RUNTIME), {"function": backend}, said.append)
    return said


def test_every_stage_is_loaded_and_run(tmp_path: Path):
    assert answers(tmp_path, functions()) == [*S0, *S1]


def broken(made: Any) -> Functions:
    def run(_: Any) -> Any:
        return made() if callable(made) else made

    good = functions()._stages[data(0)]
    return Functions({data(0): good, data(1): (run, (spec(1),), (spec(2),))})


def crash() -> Any:
    raise ZeroDivisionError("nothing to divide")


@pytest.mark.parametrize(
    ("backend", "code", "words"),
    [
        (functions(0), "model", "no function is registered"),
        (broken([]), "backend", "gave 0 tensors"),
        (broken([np.zeros(3, np.float32)]), "tensor", ""),
        (broken(crash), "backend", "ZeroDivisionError: nothing to divide"),
    ],
)
def test_a_stage_that_fails_is_named_and_ends_it(tmp_path: Path, backend: Functions, code: str, words: str):
    *before, last = answers(tmp_path, backend)
    assert before == [*S0, S1[0]]
    assert (last.stage, last.what, last.code) == ("s1", "failed", code)
    assert words in last.text


def test_a_back_end_that_is_not_here_is_named(tmp_path: Path):
    said: list[Said] = []
    run_stages(TWO, {}, said.append)
    assert "back end 'function' is not here" in said[-1].text


# --- in the node ---------------------------------------------------------------------

OBEDIENT = """
import json, sys
order = json.load(sys.stdin)
open(sys.argv[1], "a").write(f"{len(order['stages'])}\\n")
for one in order["stages"]:
    for what in ("begins", "ran"):
        print(json.dumps({"stage": one["stage"], "what": what}), flush=True)
"""
BEGUN = """print('{"stage":"s0","what":"begins"}', flush=True)"""
CRASHING = f"import os, signal; {BEGUN}; os.kill(os.getpid(), signal.SIGSEGV)"
HANGING = f"import time; {BEGUN}; time.sleep(100)"
SILENT = "import os, time; os.close(1); time.sleep(100)"
TALKATIVE = "while True: print('x' * 10_000)"


def runs(tmp_path: Path, program: str, limit_s: float = 20.0) -> FirstRuns:
    command = (sys.executable, "-S", "-c", program, str(tmp_path / "ran"))
    return FirstRuns(command, tmp_path / "first-runs.json", RuntimeConfig(first_run_s=limit_s))


async def test_what_has_run_is_remembered_over_restarts_by_stage_and_runtime(tmp_path: Path):
    first, second = (stage("s0"), CLASS), (stage("s1", 1), CLASS)
    await runs(tmp_path, OBEDIENT).run([first])
    again = runs(tmp_path, OBEDIENT)
    await again.run([first, second])
    await again.run([first, second])
    await again.run([])
    updated = msgspec.structs.replace(stage("s0"))
    await again.run([(updated, RuntimeClass("function", "2", "any", (), "none"))])
    assert (tmp_path / "ran").read_text().split() == ["1", "1", "1"]


async def test_many_stages_share_a_few_processes(tmp_path: Path):
    await runs(tmp_path, OBEDIENT).run([(stage(f"s{i}", i), CLASS) for i in range(100)])
    assert (tmp_path / "ran").read_text().split() == ["64", "36"]


async def test_the_oldest_are_forgotten(tmp_path: Path):
    file = tmp_path / "first-runs.json"
    file.write_bytes(msgspec.json.encode([f"{i}" for i in range(MAX_REMEMBERED)]))
    await runs(tmp_path, OBEDIENT).run([(stage(), CLASS)])
    known = msgspec.json.decode(file.read_bytes(), type=list[str])
    assert (len(known), known[0]) == (MAX_REMEMBERED, "1")


@pytest.mark.parametrize(
    ("program", "limit_s", "words"),
    [
        (CRASHING, 20.0, "stage 's0'.*SIGSEGV"),
        (HANGING, 0.5, "stage 's0'.*did not end within 0.5 s"),
        (SILENT, 0.5, "stage 's0'.*did not end within 0.5 s"),
        (TALKATIVE, 20.0, "too much said"),
        ("raise SystemExit(3)", 20.0, "exit code 3"),
    ],
)
async def test_what_ends_badly_is_an_error_and_not_remembered(
    tmp_path: Path, program: str, limit_s: float, words: str
):
    with pytest.raises(BackendError, match=words):
        await runs(tmp_path, program, limit_s).run([(stage(), CLASS)])
    await runs(tmp_path, OBEDIENT).run([(stage(), CLASS)])
    assert (tmp_path / "ran").read_text() == "1\n"


async def test_a_device_with_no_memory_left_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("collab.node.first_run.available_bytes", lambda: 1)
    with pytest.raises(BackendError, match="more memory"):
        await runs(tmp_path, HANGING).run([(stage(), CLASS)])


async def test_no_process_outlives_who_asked_for_it(tmp_path: Path):
    waiting = asyncio.ensure_future(runs(tmp_path, HANGING).run([(stage(), CLASS)]))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_process_that_cannot_be_started_is_an_error_with_a_remedy(tmp_path: Path):
    missing = FirstRuns((str(tmp_path / "nothing"),), tmp_path / "f.json", RUNTIME)
    with pytest.raises(BackendError, match=r'set runtime\.first_run = "off"'):
        await missing.run([(stage(), CLASS)])


async def test_a_disk_that_cannot_remember_costs_no_plan(tmp_path: Path):
    (tmp_path / "first-runs.json.part").mkdir()
    one = runs(tmp_path, OBEDIENT)
    await one.run([(stage(), CLASS)])
    await one.run([(stage(), CLASS)])
    assert (tmp_path / "ran").read_text() == "1\n"
