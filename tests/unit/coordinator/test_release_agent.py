"""An agent over a real store and a made world: every action, what is done by hand, and ends in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from collab.coordinator.release_agent import Came, ReleaseAgent, Seen
from collab.errors import Conflict, ModelError, PeerError, PeerUnreachable, StoreError
from collab.updates.agenda import FIRST_RETRY_S, MAX_REPORTS, MAX_TRIALS, Agenda, Report, reported
from collab.updates.agenda_file import AgendaFile
from collab.updates.policies.base import RulePolicy
from collab.updates.policies.parse import policy_of
from collab.updates.policies.state import Compared, DeviceState
from collab.updates.release import Release
from collab.updates.store.disk import RealDisk
from collab.updates.store.state import State
from collab.updates.store.store import Store
from tests.unit.updates.store.releases import parts, release

NOW = 1_700_000_000.0
"""A Tuesday, 22:13 UTC."""
HOUR = 3600.0
CADENCE = 60.0
CHECK = {"then": "check", "when": {"kind": "every", "hours": 10, "jitter": 0}}
INSTALL = {"then": "install", "when": {"kind": "is", "flag": "newer"}}
WEEKLY = [INSTALL, CHECK]


@dataclass
class World:
    """What the agent sees and does, all but the store and its folder."""

    folder: Path
    now: float = NOW
    offered: Release | None = None
    reported: dict[str, Any] = field(default_factory=dict)
    away: str = ""
    outcomes: dict[int, Came | Exception] = field(default_factory=dict)
    """By version, what comes of its trial; healthy otherwise."""
    ends_before_the_store_knows: bool = False
    hold: asyncio.Event | None = None
    """Trials wait for it."""
    runs: int = 0
    """Version on the plans; 0: what ran before any release."""
    log: list[str] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    fails: Exception | None = None
    """Of looks and downloads."""
    rounds: list[int] = field(default_factory=list)
    stopped: bool = False

    @property
    def store(self) -> Store:
        return Store(RealDisk(self.folder), lambda: self.now)

    async def state(self) -> State:
        return await asyncio.to_thread(self.store.state)

    async def agenda(self) -> Agenda:
        return await asyncio.to_thread(AgendaFile(self.folder).read)

    async def by_hand(self, change: str, *arguments: object) -> None:
        await asyncio.to_thread(getattr(self.store, change), *arguments)

    # --- the agent's supply

    def newest(self) -> Release | None:
        self.log.append("newest")
        if self.fails is not None:
            raise self.fails
        return self.offered

    def take(self, wanted: Release) -> str:
        self.log.append(f"take {wanted.version}")
        if self.fails is not None:
            raise self.fails
        self.store.add(wanted, parts(wanted.version))
        return "full"

    def stop(self) -> None:
        self.stopped = True

    # --- its plans

    async def look(self, time_s: float, baseline: float | None) -> Seen:
        return Seen(DeviceState(time_s=time_s, device="site", **self.reported), self.away)

    async def update(self, wanted: Release, file: Path, committed: Callable[[], Awaitable[None]]) -> Came:
        self.log.append(f"update {wanted.version}")
        assert await asyncio.to_thread(file.read_bytes) == b"".join(parts(wanted.version))
        if self.hold is not None:
            await self.hold.wait()
        came = self.outcomes.get(wanted.version, Came("healthy", epoch=wanted.version))
        if isinstance(came, Exception):
            raise came
        if came.result != "dropped":
            former, self.runs = self.runs, wanted.version
            if self.ends_before_the_store_knows:
                raise asyncio.CancelledError
            await committed()
            if came.result == "rolled back":
                self.runs = former
        return came

    async def bring(self, wanted: Release, file: Path, reason: str) -> Came:
        self.log.append(f"bring {wanted.version}")
        if self.fails is not None:
            raise self.fails
        self.runs = wanted.version
        return Came("committed", epoch=90 + wanted.version)

    async def run_round(self, number: int) -> str:
        self.rounds.append(number)
        return "done: 3 clients"

    def events(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.told if one["event"] == f"release {event}"]

    def agent(self, rules: list[dict[str, Any]], **options: Any) -> ReleaseAgent:
        return ReleaseAgent(
            "site",
            "digits",
            RulePolicy(policy_of({"name": "p", "rules": rules})),
            self.store,
            self.folder,
            self,
            self,
            clock=lambda: self.now,
            tell=lambda document, text: self.told.append(document),
            cadence_s=CADENCE,
            **options,
        )


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@asynccontextmanager
async def started(agent: ReleaseAgent) -> AsyncIterator[ReleaseAgent]:
    await agent.start()
    try:
        yield agent
    finally:
        await agent.close()


async def turn(agent: ReleaseAgent, times: int = 1) -> float:
    """Look, and let what was begun end."""
    delay = 0.0
    for _ in range(times):
        delay = await agent.look()
        await agent.idle()
    return delay


async def trial_under_way(world: World) -> None:
    while "update 2" not in world.log:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def install(world: World, *versions: int) -> None:
    """As if an earlier agent had done it."""
    for version in versions:
        await world.by_hand("add", release(version), parts(version))
        await world.by_hand("activate")
        await world.by_hand("healthy")
        world.runs = version
    await asyncio.to_thread(AgendaFile(world.folder).write, Agenda(carried=(await world.state()).activation))


async def test_a_release_is_looked_for_fetched_tried_and_put_in(world):
    world.offered = release(3)
    async with started(world.agent(WEEKLY)) as agent:
        delay = await turn(agent, 4)
    assert world.log == ["newest", "take 3", "update 3"]
    state = await world.state()
    assert (state.active, state.healthy, state.candidate, world.runs) == (release(3), True, None, 3)
    assert [report.result for report in (await world.agenda()).reports] == ["healthy"]
    assert delay == CADENCE
    decided = [event["action"] for event in world.events("decided")]
    assert decided == ["check", "install", "wait"]
    assert "never looked" in world.events("decided")[0]["why"]


async def test_nothing_is_begun_before_an_interval_is_over_and_the_next_look_is_when_it_is(world):
    world.offered = release(1)
    async with started(world.agent(WEEKLY)) as agent:
        await turn(agent, 4)
        world.now += 10 * HOUR - 20
        assert await turn(agent) == pytest.approx(20)
        assert world.log.count("newest") == 1
        world.now += 20
        await turn(agent)
    assert world.log.count("newest") == 2


async def test_a_release_that_is_worse_is_dropped_with_the_reason_and_not_taken_again(world):
    await install(world, 1)
    world.offered = release(2)
    world.outcomes[2] = Came("dropped", "answers differ", touched=7)
    async with started(world.agent(WEEKLY)) as agent:
        await turn(agent, 4)
        world.now += 11 * HOUR
        await turn(agent, 3)
    assert world.log == ["newest", "take 2", "update 2", "newest"]
    assert (world.runs, (await world.state()).active, (await world.state()).candidate) == (
        1,
        release(1),
        None,
    )
    (report,) = (await world.agenda()).reports
    assert (report.result, report.version, report.reason, report.touched) == (
        *("dropped", 2, "answers differ"),
        7,
    )
    assert (await world.state()).history[-1].reason == "answers differ"


async def test_one_that_fails_after_the_commit_is_gone_back_from_and_so_is_the_store(world):
    await install(world, 1)
    world.offered = release(2)
    world.outcomes[2] = Came("rolled back", "not finite")
    async with started(world.agent(WEEKLY)) as agent:
        await turn(agent, 5)
    state = await world.state()
    assert (world.runs, state.active, state.healthy, state.history[-1].reason) == (
        *(1, release(1)),
        *(True, "not finite"),
    )
    assert "bring 1" not in world.log, "the plans had gone back already"


async def test_the_first_release_that_fails_leaves_what_ran_before_it(world):
    world.offered = release(1)
    world.outcomes[1] = Came("rolled back", "not finite")
    async with started(world.agent(WEEKLY)) as agent:
        await turn(agent, 6)
    assert (world.runs, (await world.state()).active) == (0, None)
    assert world.log == ["newest", "take 1", "update 1"]


async def test_a_release_that_does_not_fit_the_plans_is_dropped(world):
    world.offered = release(1)
    world.outcomes[1] = ModelError("operator 3 is TANH")
    async with started(world.agent(WEEKLY)) as agent:
        await turn(agent, 5)
    assert [report.reason for report in (await world.agenda()).reports] == ["operator 3 is TANH"]
    assert world.log.count("update 1") == 1


@pytest.mark.parametrize("fails", [PeerError("releases: nobody answers"), StoreError("the disk is full")])
async def test_what_failed_is_tried_again_later_and_later(world, fails):
    world.fails = fails
    world.offered = release(1)
    async with started(world.agent(WEEKLY)) as agent:
        waits = []
        for _ in range(4):
            await turn(agent)
            waits.append((await world.agenda()).retry_s - world.now)
            await turn(agent, 2)
            world.now = (await world.agenda()).retry_s
        assert waits == [FIRST_RETRY_S * 2**n for n in range(4)]
        assert world.log == ["newest"] * 4
        assert len(world.events("failed")) == 1, "the same is not told again"
        world.fails = None
        await turn(agent, 4)
    assert world.runs == 1
    assert (await world.agenda()).failures == 0


async def test_a_node_that_is_away_stops_what_would_deploy_and_nothing_else(world):
    world.away = "node 'b' cannot be reached"
    world.offered = release(1)
    async with started(world.agent(WEEKLY)) as agent:
        await turn(agent, 3)
        assert world.log == ["newest"]
        assert "'b' cannot be reached" in world.events("decided")[-1]["why"]
        world.away = ""
        await turn(agent, 2)
    assert world.runs == 1


async def test_a_trial_that_a_lost_node_ends_is_made_again_and_is_no_crash(world):
    world.offered = release(1)
    world.outcomes[1] = PeerUnreachable("node 'b': no link to it")
    async with started(world.agent(WEEKLY)) as agent:
        for _ in range(2 * MAX_TRIALS):
            await turn(agent, 3)
            world.now += 2 * HOUR
        assert (await world.state()).candidate == release(1)
        world.outcomes.clear()
        await turn(agent, 2)
    assert world.runs == 1


# --- by hand -----------------------------------------------------------------------


async def test_a_pinned_store_does_not_update(world):
    await install(world, 1)
    await world.by_hand("pin", True)
    world.offered = release(2)
    async with started(world.agent(WEEKLY)) as agent:
        await turn(agent, 3)
        assert world.log == ["newest"]
        assert "pinned" in world.events("decided")[-1]["why"]
        await world.by_hand("pin", False)
        await turn(agent, 2)
    assert world.runs == 2


async def test_a_pin_during_a_trial_ends_it(world):
    await install(world, 1)
    world.offered, world.hold = release(2), asyncio.Event()
    async with started(world.agent(WEEKLY)) as agent:
        await turn(agent, 2)
        await agent.look()
        await trial_under_way(world)
        await world.by_hand("pin", True)
        await turn(agent, 2)
    assert (world.runs, (await world.state()).candidate) == (1, None)
    assert [event["why"] for event in world.events("given up")] == [
        "the trial of version 2: somebody decided otherwise"
    ]


async def test_going_back_by_hand_is_carried_out_on_the_plans(world):
    await install(world, 1, 2)
    async with started(world.agent(WEEKLY)) as agent:
        await turn(agent)
        await world.by_hand("rollback", "misreads sevens")
        await turn(agent, 2)
    assert world.log == ["newest", "bring 1"]
    report = (await world.agenda()).reports[-1]
    assert (report.result, report.version, report.reason) == ("rolled back", 1, "misreads sevens")


async def test_what_was_activated_by_hand_during_its_trial_runs_at_once_and_proves_itself(world):
    await install(world, 1)
    world.offered, world.hold = release(2), asyncio.Event()
    async with started(world.agent(WEEKLY)) as agent:
        await turn(agent, 2)
        await agent.look()
        await trial_under_way(world)
        await world.by_hand("activate")
        world.hold = None
        await turn(agent, 3)
    assert world.log == ["newest", "take 2", "update 2", "bring 2", "update 2"]
    assert (world.runs, (await world.state()).healthy) == (2, True)


async def test_what_cannot_be_brought_to_the_plans_is_tried_again(world):
    await install(world, 1, 2)
    await world.by_hand("rollback", "by hand")
    world.fails = PeerUnreachable("node 'b'")
    async with started(world.agent(WEEKLY)) as agent:
        await turn(agent, 2)
        assert world.runs == 2
        world.fails, world.now = None, world.now + HOUR
        await turn(agent)
    assert world.runs == 1


# --- going back and rounds by the policy -----------------------------------------------

BACK = {"then": "rollback", "when": {"kind": "level", "measure": "confidence_drop", "at_least": 0.2}}


async def test_a_policy_goes_back_once(world):
    await install(world, 1, 2)
    world.reported = {"confidence": Compared(baseline=0.9, now=0.5)}
    async with started(world.agent([BACK])) as agent:
        await turn(agent, 4)
    assert world.log == ["bring 1"]
    assert world.runs == 1
    assert "confidence_drop" in (await world.agenda()).reports[-1].reason


async def test_one_round_is_asked_for_at_a_time_and_none_within_the_pause(world):
    rules = [{"then": "round", "when": {"kind": "always"}}, CHECK]
    async with started(world.agent(rules, run_round=world.run_round, round_pause_s=24 * HOUR)) as agent:
        await turn(agent, 4)
        assert world.rounds == [1]
        assert world.log == ["newest"], "a round that cannot be asked for does not stop what is below it"
        world.now += 25 * HOUR
        await turn(agent, 2)
    assert world.rounds == [1, 2]
    assert [r.reason for r in (await world.agenda()).reports] == [
        "round 1: done: 3 clients",
        "round 2: done: 3 clients",
    ]


# --- ends in between -------------------------------------------------------------------


async def test_a_process_that_ends_between_the_plans_and_the_store_is_gone_on_with(world):
    await install(world, 1)
    world.offered, world.ends_before_the_store_knows = release(2), True
    async with started(world.agent(WEEKLY)) as agent:
        await turn(agent, 3)
    assert (world.runs, (await world.state()).active) == (2, release(1))
    world.ends_before_the_store_knows = False
    async with started(world.agent(WEEKLY)) as agent:
        await turn(agent, 2)
    assert (world.runs, (await world.state()).active, (await world.state()).healthy) == (2, release(2), True)
    assert world.log.count("take 2") == 1


async def test_a_candidate_that_ends_the_process_over_and_over_is_dropped(world):
    await install(world, 1)
    world.offered, world.hold = release(2), asyncio.Event()
    for number in range(MAX_TRIALS):
        async with started(world.agent(WEEKLY)) as agent:
            while world.log.count("update 2") == number:
                await agent.look()
    async with started(world.agent(WEEKLY)) as agent:
        await turn(agent)
    assert world.log.count("update 2") == MAX_TRIALS
    assert (await world.state()).candidate is None
    assert "ended 3 times" in (await world.agenda()).reports[-1].reason


async def test_probation_goes_on_after_a_restart(world):
    await install(world, 1)
    await world.by_hand("add", release(2), parts(2))
    await world.by_hand("activate")
    world.runs = 2
    await asyncio.to_thread(AgendaFile(world.folder).write, Agenda(carried=(await world.state()).activation))
    async with started(world.agent(WEEKLY)) as agent:
        await turn(agent)
    assert world.log[0] == "update 2"
    assert (await world.state()).healthy


async def test_a_round_that_outlived_its_asker_is_not_asked_for_again_at_once(world):
    rules = [{"then": "round", "when": {"kind": "always"}}]
    held = asyncio.Event()

    async def never(number: int) -> str:
        world.rounds.append(number)
        await held.wait()
        return ""

    async with started(world.agent(rules, run_round=never, round_pause_s=HOUR)) as agent:
        await agent.look()
        while not world.rounds:  # noqa: ASYNC110
            await asyncio.sleep(0)
    async with started(world.agent(rules, run_round=world.run_round, round_pause_s=HOUR)) as agent:
        await turn(agent, 2)
    assert world.rounds == [1]
    assert "ended before it" in (await world.agenda()).reports[0].reason


async def test_what_a_level_was_is_remembered_over_restarts(world):
    level = {"kind": "level", "measure": "confidence_drop", "at_least": 0.2, "until": 0.1}
    rules = [{"then": "faster", "by": 10, "when": level}, CHECK]
    world.reported = {"confidence": Compared(baseline=0.9, now=0.6)}
    async with started(world.agent(rules)) as agent:
        await turn(agent)
    world.reported = {"confidence": Compared(baseline=0.9, now=0.75)}
    async with started(world.agent(rules)) as agent:
        await turn(agent)
        assert world.events("decided")[-1]["pace"] == 10
    other = [{**rules[0], "by": 9}, CHECK]
    async with started(world.agent(other)) as agent:
        await turn(agent)
    assert world.events("decided")[-1]["pace"] == 1


async def test_a_window_that_was_slept_through_is_waited_for_and_one_that_is_open_acts_at_once(world):
    window = {"kind": "window", "from": "01:00", "to": "05:00"}
    rules = [{"then": "install", "when": window}, CHECK]
    world.offered = release(1)
    async with started(world.agent(rules)) as agent:
        await turn(agent, 2)
        assert world.log == ["newest"]
        world.now += 12 * HOUR  # asleep over the window
        await turn(agent, 2)
        assert "take 1" not in world.log
        world.now += 16 * HOUR
        await turn(agent, 3)
    assert world.runs == 1


async def test_two_agents_do_not_share_a_store(world):
    with ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, AgendaFile(world.folder).locked())
        with pytest.raises(Conflict, match="another process"):
            await world.agent(WEEKLY).run()


async def test_a_running_agent_acts_without_being_told(world):
    world.offered = release(1)
    agent = world.agent(WEEKLY)
    task = asyncio.ensure_future(agent.run())

    async def put_in() -> None:
        while not (await world.state()).healthy:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    await asyncio.wait_for(put_in(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert world.stopped


async def test_reports_are_bounded(world):
    agenda = Agenda()
    for number in range(MAX_REPORTS + 5):
        agenda = reported(agenda, Report(at=float(number), result="dropped", reason="x" * 10_000))
    assert len(agenda.reports) == MAX_REPORTS
    assert len(agenda.reports[0].reason) < 1000
