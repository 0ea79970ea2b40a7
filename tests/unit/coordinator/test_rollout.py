"""A rollout at work over targets that are functions: its journal, other processes, errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from collab.coordinator.rollout import Rolling, wanted
from collab.coordinator.rollout_folder import About, RolloutFolder
from collab.errors import Conflict, InputError, ModelError, PeerUnreachable, UsageError
from collab.updates.release import Release, ReleaseInfo
from collab.updates.rollout.definition import rollout_of
from collab.updates.rollout.state import (
    Abort,
    Event,
    Resume,
    RolloutState,
    Spoiled,
    Target,
    Updated,
    WentBack,
    begin,
)
from collab.updates.rollout.waves import in_waves

DEFINITION: dict[str, Any] = {
    "name": "r",
    "release": {"bundle": "b", "family": "f", "version": 7},
    "targets": [{"plans": "p"}],
    "waves": [1, "100%"],
}


class Fields:
    """Targets that run a version each; what happens to an update is a function's."""

    def __init__(self) -> None:
        self.runs: dict[str, int] = {}
        self.begun: list[str] = []
        self.back: list[str] = []
        self.meet: dict[str, Callable[[], Any]] = {}

    async def update(self, target: Target) -> Event:
        self.begun.append(target.name)
        if target.name in self.meet:
            found = self.meet[target.name]()
            if asyncio.iscoroutine(found):
                await found
            elif found is not None:
                return found  # type: ignore[no-any-return]
        self.runs[target.name] = 7
        return Updated(target.name, "f:7", 2)

    async def take_back(self, target: Target) -> Event:
        self.back.append(target.name)
        self.runs[target.name] = 6
        return WentBack(target.name, "f:6", 3)


def made(path: Path, **fields: Any) -> RolloutFolder:
    rollout = rollout_of({**DEFINITION, **fields})
    custom = ReleaseInfo(family="digits", version=7)
    release = Release(name="digits/stable/7.collab", version=7, sha256="a" * 64, size=6, custom=custom)
    folder = RolloutFolder(path / "rollout")
    state = begin(rollout, {f"p{n}": (f"p{n}.yaml", {}) for n in range(4)}, 1.0)
    folder.create(About(rollout=rollout, release=release), b"bundle", state)
    return folder


def names() -> list[str]:
    """In their order, whatever has become of them."""
    waves = in_waves(rollout_of(DEFINITION), {f"p{n}": {} for n in range(4)})
    return list(waves)


def events(folder: RolloutFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder.path / "events.jsonl").read_text().splitlines()]


async def run(
    folder: RolloutFolder,
    site: Fields,
    *,
    stay: bool = False,
    wish: Abort | Resume | None = None,
    **options: Any,
) -> tuple[RolloutState, list[dict[str, Any]]]:
    """As a process would that takes over."""
    told: list[dict[str, Any]] = []
    with ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, folder.locked())
        state = await read(folder)
        about = await asyncio.to_thread(folder.about)
        rolling = Rolling(folder, about.rollout, state, site, lambda event, _: told.append(event), **options)
        return await rolling.run(stay=stay, wish=wish), told


async def read(folder: RolloutFolder) -> RolloutState:
    return await asyncio.to_thread(folder.read)


async def test_each_step_is_kept_and_told(tmp_path):
    folder, site = await asyncio.to_thread(made, tmp_path), Fields()
    state, told = await run(folder, site)
    assert (state.phase, await read(folder)) == ("done", state)
    assert site.begun == names()
    assert told == await asyncio.to_thread(events, folder)
    assert [event["event"] for event in told].count("wave") == 1
    assert told[-1]["phase"] == "done"


async def test_errors_are_told_by_whose_fault_they_are(tmp_path):
    folder, site = (
        await asyncio.to_thread(made, tmp_path, errors=4, success="1%", close_after_s=0, waves=["100%"]),
        Fields(),
    )
    away, taken, broken, slow = names()

    def fails(error: Exception) -> Callable[[], Any]:
        def fail() -> None:
            raise error

        return fail

    site.meet = {
        away: fails(PeerUnreachable("no link\nto it")),
        taken: fails(Conflict("somebody deploys")),
        broken: fails(ModelError("does not fit")),
    }
    state, _ = await run(folder, site)
    told = {one.name: (one.status, one.reason) for one in state.targets}
    assert told == {
        away: ("offline", "no link to it"),
        taken: ("offline", "somebody deploys"),
        broken: ("failed", "does not fit"),
        slow: ("healthy", ""),
    }
    assert (state.phase, state.reason) == ("done", "2 targets did not come back in time")


async def test_an_update_that_never_ends_is_ended(tmp_path):
    folder, site = await asyncio.to_thread(made, tmp_path, deadline_s=1), Fields()
    canary = names()[0]
    gone = asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()

    site.meet = {canary: hang}
    state, _ = await run(folder, site)
    assert (state.phase, gone.is_set()) == ("halted", True)
    assert state.target(canary).reason == "nothing was decided within 1 s"


async def test_a_process_that_takes_over_does_no_target_twice(tmp_path):
    folder, site = await asyncio.to_thread(made, tmp_path, parallel=1), Fields()
    third = names()[2]
    at_it = asyncio.Event()

    async def hang() -> None:
        at_it.set()
        await asyncio.Event().wait()

    site.meet = {third: hang}
    first = asyncio.ensure_future(run(folder, site))
    await at_it.wait()
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    assert (await read(folder)).target(third).status == "updating"
    paused = await asyncio.to_thread(wanted, folder, "pause", "ann")
    assert (paused.paused_by, paused.target(third).status) == ("ann", "waiting")
    site.meet = {}
    state, _ = await run(folder, site, wish=Resume("ann"))
    assert state.phase == "done"
    assert site.begun == [*names()[:3], *names()[2:]]


async def test_another_process_pauses_resumes_and_aborts(tmp_path):
    folder, site = await asyncio.to_thread(made, tmp_path, parallel=1), Fields()
    second = names()[1]
    at_it, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        at_it.set()
        await go_on.wait()

    site.meet = {second: wait}
    running = asyncio.ensure_future(run(folder, site))
    await at_it.wait()
    with pytest.raises(Conflict, match="another process"):
        await run(folder, site)
    paused = await asyncio.to_thread(folder.ask, "pause", "ann")
    assert paused.paused_by == "ann"
    go_on.set()
    resumed = await asyncio.to_thread(folder.ask, "resume", "ann")
    assert resumed.paused_by == ""
    state, told = await asyncio.wait_for(running, 10)
    assert state.phase == "done"
    assert [event["event"] for event in told if event["event"] in ("paused", "resumed")] == [
        "paused",
        "resumed",
    ]
    state, _ = await run(folder, site, wish=Abort("bob", back=True))
    assert (state.phase, state.reason) == ("aborted", "aborted by bob")
    assert site.back == list(reversed(names()))


async def test_a_release_that_is_taken_back_closes_it(tmp_path):
    folder, site = await asyncio.to_thread(made, tmp_path), Fields()
    site.meet = {names()[0]: lambda: asyncio.sleep(0.4)}
    state, _ = await run(folder, site, gone=lambda: "version 8 is newer")
    assert (state.phase, state.reason) == ("closed", "version 8 is newer")
    assert site.begun == names()[:1]


async def test_a_halted_rollout_is_waited_at_by_who_stays(tmp_path):
    folder, site = await asyncio.to_thread(made, tmp_path), Fields()
    canary = names()[0]
    site.meet = {canary: lambda: Spoiled(canary, "dropped", "answers differ")}
    staying = asyncio.ensure_future(run(folder, site, stay=True))
    await reaches(folder, "halted")
    site.meet = {}
    await asyncio.to_thread(folder.ask, "resume", "ann")
    await reaches(folder, "done")
    staying.cancel()
    with suppress(asyncio.CancelledError):
        await staying
    assert site.begun == [canary, *names()]


async def reaches(folder: RolloutFolder, phase: str) -> None:
    while (await read(folder)).phase != phase:  # noqa: ASYNC110 - another task writes it
        await asyncio.sleep(0.01)


def test_a_folder_is_begun_once_and_said_where_there_is_none(tmp_path):
    folder = made(tmp_path)
    with pytest.raises(UsageError, match="resume goes on"):
        made(tmp_path)
    for use in (RolloutFolder(tmp_path / "no").read, RolloutFolder(tmp_path / "no").about):
        with pytest.raises(InputError, match="no rollout is there"):
            use()
    (folder.path / "state.json").write_text('{"targets": 1}')
    with pytest.raises(InputError, match=r"state\.json"):
        folder.read()
