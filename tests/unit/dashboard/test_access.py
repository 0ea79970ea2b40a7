"""Sessions, who may act, and pages of other sites."""

from itertools import count

import pytest

from collab.dashboard.access import MAX_SESSIONS, MAX_TRIES, SESSION_S, TRIES_S, Sessions
from collab.errors import Refused

KEYS = {"k-op": ("ann", "operator"), "k-view": ("vic", "viewer")}


def who(key):
    if key not in KEYS:
        raise Refused("this API key is not known here")
    return KEYS[key]


def made(asks=True, **options):
    numbers = count()
    return Sessions(who if asks else None, lambda: f"secret-{next(numbers)}", **options)


def test_a_key_becomes_a_session_of_its_role_until_that_ends():
    sessions = made()
    secret, session = sessions.sign_in("k-view", "1.2.3.4", 0.0)
    assert (session.name, session.role, session.acts) == ("vic", "viewer", False)
    assert sessions.of(secret, SESSION_S - 1) == session
    assert sessions.of(secret, SESSION_S) is None
    assert sessions.of("secret-99", 0.0) is None
    assert sessions.of(None, 0.0) is None


def test_wrong_keys_are_refused_and_guessing_is_stopped_for_a_while():
    sessions = made()
    for _ in range(MAX_TRIES):
        with pytest.raises(Refused, match="not known"):
            sessions.sign_in("guess", "1.2.3.4", 0.0)
    with pytest.raises(Refused, match="too many wrong keys"):
        sessions.sign_in("k-op", "1.2.3.4", 1.0)
    assert sessions.sign_in("k-op", "5.6.7.8", 1.0)[1].acts
    assert sessions.sign_in("k-op", "1.2.3.4", TRIES_S)[1].acts


def test_other_keys_end_the_sessions_of_the_former_ones():
    sessions = Sessions(lambda key: ("ann", "viewer"), iter("abcd").__next__)
    cookie, _ = sessions.sign_in("any", "10.0.0.1", 0.0)
    assert sessions.of(cookie, 1.0) is not None
    sessions.take_keys(lambda key: ("ben", "operator"))
    assert sessions.of(cookie, 1.0) is None
    assert sessions.sign_in("any", "10.0.0.1", 1.0)[1].name == "ben"


def test_nobody_begins_without_a_key_where_one_is_asked_for():
    with pytest.raises(Refused, match="give a key"):
        made().open("127.0.0.1", 0.0)
    assert made(asks=False).open("127.0.0.1", 0.0)[1].acts


def test_sessions_are_bounded_and_end_when_signed_out():
    sessions = made(asks=False)
    first, _ = sessions.open("127.0.0.1", 0.0)
    for _ in range(MAX_SESSIONS):
        last, _ = sessions.open("127.0.0.1", 0.0)
    assert sessions.of(first, 0.0) is None
    sessions.sign_out(last)
    assert sessions.of(last, 0.0) is None


@pytest.mark.parametrize(
    ("host", "origin", "site"),
    [
        ("127.0.0.1:8080", "http://evil.example", None),
        ("127.0.0.1:8080", "null", None),
        ("127.0.0.1:8080", "http://127.0.0.1:9999", None),
        ("127.0.0.1:8080", None, "cross-site"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080", "same-site"),
        ("rebound.example:8080", "http://rebound.example:8080", "same-origin"),
        ("", None, None),
    ],
)
def test_what_a_page_of_another_site_asks_is_refused(host, origin, site):
    with pytest.raises(Refused):
        made().check_site(host, origin, site)


def test_the_own_page_is_answered():
    made().check_site("localhost:8080", "http://localhost:8080", "same-origin")
    made(loopback=False).check_site("collab.example", "https://collab.example", "same-origin")
    made().check_site("[::1]:8080", None, "none")


def test_to_act_takes_the_role_the_sessions_token_and_an_origin():
    sessions = made()
    _, operator = sessions.sign_in("k-op", "x", 0.0)
    _, viewer = sessions.sign_in("k-view", "x", 0.0)
    sessions.check_action(operator, operator.token, "http://here")
    with pytest.raises(Refused, match="Origin"):
        sessions.check_action(operator, operator.token, None)
    for token in ("", viewer.token, "é", "\udcff"):
        with pytest.raises(Refused, match="X-Collab-Token"):
            sessions.check_action(operator, token, "http://here")
    with pytest.raises(Refused, match="needs the role operator"):
        sessions.check_action(viewer, viewer.token, "http://here")
