"""What an agent remembers, what stands in its way, and what it makes of store and offer."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from collab.errors import InputError, StoreError
from collab.updates.agenda import (
    FIRST_RETRY_S,
    LAST_RETRY_S,
    Agenda,
    Round,
    decode_agenda,
    facing,
    failed,
    obstacles,
    promised,
    round_due,
    waits_until,
)
from collab.updates.agenda_file import NAME, AgendaFile
from collab.updates.policies.state import DeviceState
from collab.updates.release import Release
from collab.updates.store import state as rules
from collab.updates.store.state import State
from tests.unit.updates.store.releases import release

NOW = 1_700_000_000.0
FREE = {"busy": "", "away": "", "rounds": ""}


def accurate(version: int, accuracy: float | None) -> Release:
    one = release(version)
    return replace(one, custom=replace(one.custom, accuracy=accuracy))


def store(*versions: Release) -> State:
    state = State()
    for one in versions:
        state = rules.healthy(rules.activate(rules.stage(state, one, NOW), NOW), NOW)
    return state


def test_an_agenda_survives_its_file(tmp_path):
    agenda = failed(Agenda(offered=release(3), checked_s=NOW, round=Round(number=2, began_s=NOW)), NOW)
    AgendaFile(tmp_path).write(agenda)
    assert AgendaFile(tmp_path).read() == agenda
    assert AgendaFile(tmp_path / "none").read() == Agenda()


@pytest.mark.parametrize("data", [b"", b"[]", b'{"reports": 3}', b'{"new": 1}', b"\xff" * 9])
def test_one_that_cannot_be_read_is_said_so_and_how_to_go_on(tmp_path, data):
    with pytest.raises(InputError, match="agenda"):
        decode_agenda(data)
    (tmp_path / NAME).write_bytes(data)
    with pytest.raises(StoreError, match="remove it"):
        AgendaFile(tmp_path).read()


def test_waits_grow_to_a_bound_and_a_clock_put_back_ends_them():
    agenda, now, waits = Agenda(), NOW, []
    for _ in range(12):
        agenda = failed(agenda, now)
        waits.append(waits_until(agenda, now) - now)
        now = agenda.retry_s
    assert waits[:3] == [FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S]
    assert waits[-1] == LAST_RETRY_S
    assert waits_until(agenda, now) == now
    assert waits_until(agenda, NOW - 10 * LAST_RETRY_S) == NOW - 10 * LAST_RETRY_S


@pytest.mark.parametrize(
    ("last", "due"),
    [
        (None, NOW),
        (Round(number=1, began_s=NOW - 500, over_s=NOW - 30), NOW + 70),
        (Round(number=1, began_s=NOW - 60), NOW + 40),
        (Round(number=1, began_s=NOW - 500, over_s=NOW - 200), NOW),
        (Round(number=1, began_s=NOW + 9_000, over_s=NOW + 9_900), NOW),
    ],
)
def test_a_round_is_due_a_pause_after_the_last(last, due):
    assert round_due(Agenda(round=last), 100, NOW) == due


def test_the_state_has_what_the_store_and_the_repository_say():
    two = store(accurate(1, 0.8), accurate(2, 0.9))
    found = facing(DeviceState(time_s=NOW), two, Agenda(offered=accurate(3, 0.93), checked_s=NOW - 5))
    assert (found.running, found.previous, found.offered, found.checked_s) == (2, 1, 3, NOW - 5)
    assert found.offered_bytes == release(3).size
    assert found.benefit == pytest.approx(0.03)
    assert promised(two) == 0.9


@pytest.mark.parametrize(
    ("offered", "version", "benefit"),
    [
        (None, None, None),
        (accurate(2, 0.5), 2, None),
        (accurate(3, None), 3, None),
        (accurate(3, 0.5), 3, 0.0),
    ],
)
def test_what_was_here_is_no_offer_and_what_nobody_states_no_benefit(offered, version, benefit):
    found = facing(DeviceState(time_s=NOW), store(accurate(2, 0.9)), Agenda(offered=offered))
    assert (found.offered, found.benefit) == (version, benefit)


def test_nothing_stands_in_the_way_of_an_idle_agent():
    assert obstacles(Agenda(), store(release(1)), NOW, **FREE) == {}


@pytest.mark.parametrize(
    ("agenda", "state", "words", "stopped"),
    [
        (Agenda(), rules.pin(store(release(1)), True, NOW), {}, {"install", "rollback"}),
        (Agenda(), replace(store(release(1)), healthy=False), {}, {"install"}),
        (Agenda(), State(), {"busy": "x"}, {"check", "install", "rollback"}),
        (Agenda(), State(), {"away": "x"}, {"install", "rollback"}),
        (Agenda(), State(), {"rounds": "x"}, {"round"}),
        (failed(Agenda(), NOW), State(), {}, {"check", "install"}),
        (failed(Agenda(), NOW - 60), State(), {}, set()),
    ],
)
def test_each_thing_stops_what_it_has_to(agenda, state, words, stopped):
    found = obstacles(agenda, state, NOW, **(FREE | words))
    assert found.keys() == stopped
    assert all(found.values())
