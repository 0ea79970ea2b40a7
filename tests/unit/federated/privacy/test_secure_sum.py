"""Sums that nobody sees the terms of: exact with drop-outs, refused when somebody cheats."""

from __future__ import annotations

import gc
import hashlib
import logging
import types
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.errors import CollabError, ConfigError, ProtocolError, Refused
from collab.federated.privacy import fixed_point, shamir
from collab.federated.privacy.fixed_point import Encoding
from collab.federated.privacy.messages import (
    Agreement,
    Agreements,
    FromServer,
    Inbox,
    Keys,
    Masked,
    Revealed,
    Roster,
    Shares,
    Survivors,
    check_terms,
)
from collab.federated.privacy.secure_server import SecureServer
from collab.federated.privacy.statements import about_keys
from tests.unit.federated.privacy.cohort import BASIS, Cohort, client, names, sign_as, terms, vectors, verify

LEAVING = [
    {},
    {2: ["client-03", "client-07"]},
    {0: ["client-00"], 1: ["client-09"], 2: ["client-04"]},
    {2: ["client-00", "client-09"], 3: ["client-01"]},
    {3: ["client-02"], 4: ["client-05", "client-08"]},
]


@pytest.mark.parametrize("leave", LEAVING)
@pytest.mark.parametrize("ring_bits", [32, 64])
def test_the_sum_is_exact_whoever_drops_out(leave, ring_bits):
    encoding = Encoding(ring_bits, fraction_bits=16, limit=1.0, max_samples=100)
    agreed = terms(encoding=encoding)
    cohort = Cohort(agreed, vectors(agreed))
    outcome = cohort.run(leave).outcome
    gone = {name for number in (0, 1, 2) for name in leave.get(number, ())}
    assert set(outcome.dropped) == gone
    assert outcome.survivors == tuple(name for name in agreed.invited if name not in gone)
    assert (outcome.total == cohort.total(outcome.survivors)).all()
    assert outcome.liars == ()


def test_the_weighted_mean_of_updates_has_the_bits_of_the_plain_one():
    rng = np.random.default_rng(5)
    shapes, encoding = {"kernel": (4, 3), "bias": (3,)}, Encoding()
    updates = {
        name: (
            {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()},
            int(rng.integers(1, 900)),
        )
        for name in names(10)
    }
    inputs = {name: fixed_point.encode(encoding, shapes, *update) for name, update in updates.items()}
    cohort = Cohort(terms(length=fixed_point.vector_length(shapes)), inputs)
    outcome = cohort.run({2: ["client-03", "client-07"]}).outcome
    total = fixed_point.decode_sum(encoding, shapes, outcome.total, len(outcome.survivors))
    plain = np.add.reduce([inputs[name].view(np.int64) for name in outcome.survivors])
    assert total.numbers.tolist() == plain[:-1].tolist()
    samples = [updates[name][1] for name in outcome.survivors]
    assert total.samples == sum(samples)
    kernels = [updates[name][0]["kernel"].astype(np.float64) for name in outcome.survivors]
    exact = np.tensordot(samples, kernels, 1)
    np.testing.assert_allclose(total.mean()["kernel"], exact / total.samples, atol=encoding.step)


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_cohort_and_any_leaving_gives_the_exact_sum_or_none(data):
    count = data.draw(st.integers(3, 7))
    agreed = terms(count, 3, threshold=data.draw(st.integers(count // 2 + 1, count)))
    leave: dict[int, set[str]] = {}
    left = set(agreed.invited)
    for number in range(5):
        leave[number] = data.draw(st.sets(st.sampled_from(sorted(left)), max_size=2)) if left else set()
        left -= leave[number]
    cohort = Cohort(agreed, vectors(agreed))
    if len(left) < agreed.threshold:
        with pytest.raises(Refused, match="fewer than the threshold"):
            cohort.run(leave)
        assert cohort.server.outcome is None
    else:
        outcome = cohort.run(leave).outcome
        assert (outcome.total == cohort.total(outcome.survivors)).all()


def held(roots: Iterable[object]) -> bytes:
    """All bytes, arrays and numbers that can be reached from some objects, one after another."""
    seen: set[int] = set()
    todo, found = list(roots), []
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, (type, types.ModuleType, types.FunctionType)):
            continue
        seen.add(id(one))
        if isinstance(one, np.ndarray):
            found.append(one.tobytes())
        elif isinstance(one, (bytes, bytearray, memoryview)):
            found.append(bytes(one))
        elif isinstance(one, str):
            found.append(one.encode())
        elif isinstance(one, msgspec.Struct):
            todo += [getattr(one, field) for field in one.__struct_fields__]
        todo += gc.get_referents(one)
        todo += [getattr(one, name) for name in getattr(type(one), "__slots__", ()) if hasattr(one, name)]
    return b"|".join(found)


def test_the_server_never_holds_or_logs_a_single_vector(caplog):
    caplog.set_level(logging.DEBUG)
    agreed = terms(length=40)
    inputs = vectors(agreed)
    cohort = Cohort(agreed, inputs)
    pieces = [vector[start : start + 4].tobytes() for vector in inputs.values() for start in range(0, 40, 4)]
    masked: list[bytes] = []
    kept: list[int] = []

    def look(server: SecureServer) -> None:
        everything = held([server])
        assert not [piece for piece in pieces if piece in everything]
        # Masked vectors are not kept either, but for the first, which is the sum so far.
        kept.append(sum(piece in everything for piece in masked))

    cohort.after = look
    for number, leave in enumerate([(), (), ("client-03", "client-07"), ("client-05",), ()]):
        cohort.phase(leave)
        if number == 1:
            masked = [message.vector[:32] for message in cohort.said.values()]
    outcome = cohort.server.outcome
    assert (outcome.total == cohort.total(outcome.survivors)).all()
    assert kept == [0] * 22 + [1] + [0] * 24
    assert not caplog.records
    # The search would find them: what it looks for is in the clients' memory.
    assert pieces[0] in held([inputs])


def test_what_the_server_holds_after_the_first_vector_is_that_one_under_a_mask():
    agreed = terms()
    cohort = Cohort(agreed, vectors(agreed))
    cohort.phase()
    cohort.phase()
    name = agreed.invited[0]
    cohort.server.receive(name, cohort.said[name])
    assert (cohort.server._total == cohort.inputs[name]).mean() == 0


def test_masked_vectors_look_random_and_differ_between_sessions():
    agreed = terms(length=4096)
    zeros = {name: np.zeros(4096, np.uint64) for name in agreed.invited}
    seen = []
    for session in ("task/1/1", "task/2/1"):
        cohort = Cohort(msgspec.structs.replace(agreed, session=session), zeros)
        cohort.phase()
        cohort.phase()
        seen += [np.frombuffer(message.vector, "<u8") for message in cohort.said.values()]
    assert len({vector.tobytes() for vector in seen}) == 20
    # The mean of so many even bits is a half within 6 standard deviations.
    bits = np.unpackbits(np.concatenate(seen).view(np.uint8))
    assert abs(bits.mean() - 0.5) < 6 * 0.5 / np.sqrt(bits.size)


def test_a_late_vector_is_not_taken_when_its_sender_counts_as_gone():
    agreed = terms()
    cohort = Cohort(agreed, vectors(agreed))
    cohort.phase()
    cohort.phase()
    late = cohort.said["client-04"]
    cohort.phase(["client-04"])
    with pytest.raises(ProtocolError, match="'client-04' sent masked, due is agreement"):
        cohort.server.receive("client-04", late)
    with pytest.raises(ProtocolError, match="no longer asked"):
        cohort.server.receive("client-04", Agreement(b"x"))


# --- clients that lie ----------------------------------------------------------


def test_wrong_shares_are_worked_around_and_who_gave_them_is_named():
    agreed = terms()
    cohort = Cohort(agreed, vectors(agreed))
    for leave in [(), (), ("client-09",), ()]:
        cohort.phase(leave)
    junk = bytes(shamir.SHARE_BYTES - 1) + b"\x07"
    for name in ("client-00", "client-02"):
        true = cohort.said[name]
        cohort.said[name] = Revealed(dict.fromkeys(true.seeds, junk), dict.fromkeys(true.keys, junk))
    cohort.phase()
    outcome = cohort.server.outcome
    assert outcome.liars == ("client-00", "client-02")
    assert (outcome.total == cohort.total(outcome.survivors)).all()


def test_a_client_that_sealed_junk_is_named_and_nothing_is_opened():
    agreed = terms()
    cohort = Cohort(agreed, vectors(agreed))
    cohort.phase()
    true = cohort.said["client-06"]
    cohort.said["client-06"] = Shares({name: bytes(82) for name in true.sealed}, true.commitment)
    for _ in range(3):
        cohort.phase()
    with pytest.raises(Refused, match="leave 'client-06' out and run the round again"):
        cohort.phase()
    assert cohort.server.outcome is None
    assert cohort.server.expects is None


def forged(cohort: Cohort) -> dict[str, object]:
    """For each phase by what is wrong: what client-01 sends in place of the truth."""
    kind = cohort.server.expects
    true = cohort.said["client-01"]
    if kind is Keys:
        other = cohort.said["client-00"]
        return {
            "has not signed its keys": Keys(true.cipher, true.mask, b"?"),
            "a key that is there already": Keys(
                other.cipher,
                true.mask,
                sign_as("client-01")(about_keys(cohort.terms, "client-01", other.cipher, true.mask)),
            ),
        }
    if kind is Shares:
        some = dict(list(true.sealed.items())[1:])
        return {"exactly the others": Shares(some, true.commitment)}
    if kind is Masked:
        return {"bytes of 400": Masked(true.vector[1:])}
    if kind is Agreement:
        return {"has not signed this roster": Agreement(b"?")}
    return {"not asked for": Revealed(true.seeds, {"client-02": bytes(33)})}


def test_what_a_client_may_not_send_is_refused_by_its_name_and_changes_nothing():
    agreed = terms()
    cohort = Cohort(agreed, vectors(agreed))
    for _ in range(5):
        cohort.server.receive("client-00", cohort.said["client-00"])
        for wrong, message in forged(cohort).items():
            with pytest.raises(ProtocolError, match=f"client 'client-01' .*{wrong}"):
                cohort.server.receive("client-01", message)
        for repeat in ("client-00", "stranger"):
            with pytest.raises(ProtocolError, match="is not or no longer asked"):
                cohort.server.receive(repeat, cohort.said["client-00"])
        del cohort.said["client-00"]
        cohort.phase()
    outcome = cohort.server.outcome
    assert (outcome.total == cohort.total(agreed.invited)).all()


# --- a server that lies --------------------------------------------------------


def until(phases: int, agreed=None) -> tuple[Cohort, dict[str, Any]]:
    """A cohort, and what the server has sent last, before the clients see it."""
    agreed = agreed or terms()
    cohort = Cohort(agreed, vectors(agreed))
    for _ in range(phases - 1):
        cohort.phase()
    for name, message in cohort.said.items():
        cohort.server.receive(name, message)
    return cohort, dict(cohort.server.close())


def without(mapping: dict, *gone: str) -> dict:
    return {name: value for name, value in mapping.items() if name not in gone}


SEVEN, SIX = names(7), names(6)


def lies() -> dict[str, tuple[int, Callable[[Any], FromServer]]]:
    def roster(change):
        return 1, lambda sent: Roster(change(dict(sent.keys)))

    def keys_of_another_session(keys):
        return {
            **keys,
            "client-05": client(terms(session="old"), "client-05", vectors(terms())["client-05"]).start(),
        }

    return {
        "fewer than the threshold 7; this client": (1, lambda sent: Roster({n: sent.keys[n] for n in SIX})),
        "the roster leaves this client out": roster(lambda keys: without(keys, "client-00")),
        "other keys for this client": roster(lambda keys: {**keys, "client-00": keys["client-01"]}),
        "a key twice": roster(lambda keys: {**keys, "client-01": keys["client-02"]}),
        "'client-05' are not signed by it": roster(keys_of_another_session),
        "names 'sybil', who was not there": roster(lambda keys: {**keys, "sybil": keys["client-01"]}),
        "the inbox names 6 clients": (2, lambda sent: Inbox({n: sent.sealed[n] for n in SIX[1:]})),
        "shares from this client itself": (2, lambda sent: Inbox({**sent.sealed, "client-00": bytes(82)})),
        "list of survivors names 6": (3, lambda sent: Survivors(SIX)),
        "survivors leaves this client out": (3, lambda sent: Survivors(names(10)[1:])),
        "survivors has a name twice": (3, lambda sent: Survivors((*SEVEN, "client-00"))),
        "the agreements names 6": (4, lambda sent: Agreements({n: sent.signatures[n] for n in SIX})),
        "'client-01' has not signed the same": (
            4,
            lambda sent: Agreements({**sent.signatures, "client-01": b"?"}),
        ),
        "roster came, due is inbox": (2, lambda sent: Roster({})),
        "survivors came, due is agreements": (4, lambda sent: Survivors(names(10))),
    }


@pytest.mark.parametrize("why", lies())
def test_a_client_leaves_a_server_that_lies(why):
    phases, change = lies()[why]
    cohort, sent = until(phases)
    one = cohort.clients["client-00"]
    with pytest.raises((ProtocolError, Refused), match=why):
        one.answer(change(sent["client-00"]))
    # It has forgotten its secrets, and does not answer the truth either any more.
    with pytest.raises(ProtocolError, match="due is none"):
        one.answer(sent["client-00"])
    assert not [name for name in ("_vector", "_cipher", "_mask", "_seed", "_shares") if getattr(one, name)]


def test_no_two_lists_of_survivors_get_both_kinds_of_shares():
    cohort, _ = until(3)
    lists = Survivors(names(10)), Survivors(tuple(name for name in names(10) if name != "client-09"))
    halves = names(10)[:5], names(10)[5:9]
    signed = {
        name: cohort.clients[name].answer(told).signature
        for half, told in zip(halves, lists, strict=True)
        for name in half
    }
    for name in halves[0] + halves[1]:
        with pytest.raises(ProtocolError, match="has not signed the same roster and survivors"):
            cohort.clients[name].answer(Agreements(signed))


def test_a_client_reveals_once_and_one_kind_for_each_peer():
    cohort, _ = until(1)
    cohort = Cohort(terms(), vectors(terms()))
    for leave in [(), (), ("client-03",), ()]:
        replies = cohort.phase(leave)
    for name, said in cohort.said.items():
        assert set(said.keys) == {"client-03"}
        assert set(said.seeds) == set(names(10)) - {"client-03"}
        with pytest.raises(ProtocolError, match="due is none"):
            cohort.clients[name].answer(replies[name])


def test_clients_that_were_told_different_terms_do_not_meet():
    agreed = terms()
    other = msgspec.structs.replace(agreed, encoding=Encoding(fraction_bits=20))
    cohort, sent = until(1, agreed)
    told = client(other, "client-00", vectors(other)["client-00"])
    mine = told.start()
    with pytest.raises(ProtocolError, match="not signed by it"):
        told.answer(Roster({**sent["client-00"].keys, "client-00": mine}))
    with pytest.raises(Refused, match="other weights"):
        client(agreed, "client-00", cohort.inputs["client-00"], basis=bytes(32))


@pytest.mark.parametrize("number", range(5))
def test_a_phase_with_fewer_clients_than_the_threshold_ends_the_session_at_the_server(number):
    agreed = terms()
    cohort = Cohort(agreed, vectors(agreed))
    for _ in range(number):
        cohort.phase()
    for name in names(6):
        cohort.server.receive(name, cohort.said[name])
    with pytest.raises(Refused, match=r"6 clients sent .*, fewer than the threshold 7; nothing of the sum"):
        cohort.server.close()
    assert cohort.server.expects is None
    assert cohort.server.outcome is None
    assert not cohort.server._total.size


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"threshold": 5}, "threshold 5 has to be more than half"),
        ({"threshold": 11}, "at most all; 7 is the usual one"),
        ({"invited": names(2), "threshold": 2}, "from 3 on"),
        ({"invited": tuple(reversed(names(10)))}, "in the order"),
        ({"invited": (*names(9), names(9)[-1])}, "once"),
        ({"invited": ("a b", *names(9))}, "a b"),
        ({"encoding": Encoding(ring_bits=32)}, "do not fit 32 bits"),
    ],
)
def test_terms_that_hide_nothing_are_refused_on_both_sides(changes, why):
    bad = terms(**changes)
    for act in (
        lambda: check_terms(bad),
        lambda: SecureServer(bad, verify),
        lambda: client(bad, "client-00", np.zeros(bad.length, np.uint64)),
    ):
        with pytest.raises(ConfigError, match=why):
            act()


def test_only_who_is_invited_takes_part():
    with pytest.raises(Refused, match="not invited"):
        client(terms(), "stranger", np.zeros(50, np.uint64), basis=BASIS)


MESSAGES = st.one_of(
    st.builds(
        Roster, st.dictionaries(st.sampled_from(names(4)), st.builds(Keys, *[st.binary(max_size=33)] * 3))
    ),
    st.builds(Inbox, st.dictionaries(st.sampled_from(names(4)), st.binary(max_size=90))),
    st.builds(Survivors, st.lists(st.sampled_from(names(4)), max_size=5).map(tuple)),
    st.builds(Agreements, st.dictionaries(st.sampled_from(names(4)), st.binary(max_size=40))),
)


@given(st.lists(st.tuples(st.booleans(), MESSAGES), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_whatever_a_server_says_only_our_errors_leave_and_no_secret_twice(said):
    agreed = terms(4, 3)
    cohort = Cohort(agreed, vectors(agreed))
    one = cohort.clients["client-00"]
    true = iter(range(4))
    revealed = []
    for honest, message in said:
        try:
            if honest and next(true, None) is not None and cohort.server.expects is not Revealed:
                for name, reply in cohort.said.items():
                    cohort.server.receive(name, reply)
                replies = dict(cohort.server.close())
                cohort.said = {n: cohort.clients[n].answer(r) for n, r in replies.items() if n != "client-00"}
                cohort.said["client-00"] = one.answer(replies["client-00"])
                answer = cohort.said["client-00"]
            else:
                answer = one.answer(message)
            revealed += [answer] if isinstance(answer, Revealed) else []
        except CollabError:
            assert one.expects is None
            break
    assert len(revealed) <= 1
    for answer in revealed:
        assert not answer.seeds.keys() & answer.keys.keys()


def test_the_input_may_come_as_late_as_the_inbox():
    cohort, sent = until(2)
    one = cohort.clients["client-00"]
    vector, one._vector = one._vector, None
    with pytest.raises(ValueError, match="no input yet"):
        one.answer(sent["client-00"])
    with pytest.raises(ValueError, match="another length"):
        one.contribute(vector[1:])
    one.contribute(vector)
    assert isinstance(one.answer(sent["client-00"]), Masked)


def test_the_seed_of_a_mask_is_committed_to_and_not_shown():
    cohort, sent = until(1)
    shares = cohort.clients["client-00"].answer(sent["client-00"])
    seed = cohort.clients["client-00"]._seed
    assert shares.commitment == hashlib.sha256(seed).digest()
    assert seed not in msgspec.msgpack.encode(shares)
