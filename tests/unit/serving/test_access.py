"""Who may ask, and how often."""

from __future__ import annotations

import stat

import pytest

from collab.errors import ConfigError, RateLimited, Refused, Unauthenticated, UsageError
from collab.security.api_keys import add_api_key, read_api_keys, whose
from collab.serving.access import Access, Caller, bearer
from collab.serving.rate import MAX_CLIENTS, RateLimit, parse_rate


def test_a_key_is_told_once_and_its_file_keeps_a_hash(tmp_path):
    file = tmp_path / "keys.txt"
    one, two = add_api_key(file, "camera-1", "inference"), add_api_key(file, "alice", "operator")
    assert one != two
    text = file.read_text("ascii")
    assert one not in text
    assert two not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    keys = read_api_keys(file)
    assert whose(keys, one)[:2] == ("camera-1", "inference")
    assert whose(keys, two)[:2] == ("alice", "operator")
    for wrong in (None, "", one[:-1], one + "x", keys[0].sha256, "é" * 600):
        with pytest.raises(Unauthenticated):
            whose(keys, wrong)
    with pytest.raises(UsageError, match="'alice' has a key"):
        add_api_key(file, "alice", "viewer")
    with pytest.raises(UsageError, match="--role"):
        add_api_key(file, "bob", "root")
    file.chmod(0o644)
    with pytest.raises(Refused, match="chmod 600"):
        read_api_keys(file)


@pytest.mark.parametrize(
    "line", ["a", "a root " + "0" * 64, "a viewer 00", "a viewer " + "0" * 64 + "\na viewer " + "0" * 64]
)
def test_a_wrong_file_of_keys_is_refused(tmp_path, line):
    file = tmp_path / "keys.txt"
    file.write_text(f"# comment\n\n{line}\n")
    file.chmod(0o600)
    with pytest.raises(ConfigError):
        read_api_keys(file)


ROLES = {"viewer": {"look"}, "inference": {"look", "infer"}, "operator": {"look", "infer", "operate"}}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_do_what_it_is_for(role):
    for action in ("look", "infer", "operate"):
        if action in ROLES[role]:
            Caller("n", role).check(action)
        else:
            with pytest.raises(Refused, match="this needs the role"):
                Caller("n", role).check(action)


def test_rates_are_counted_for_each_client():
    limit = RateLimit(2)
    for client in ("a", "b"):
        for _ in range(2):
            limit.take(client, 0.0)
        with pytest.raises(RateLimited, match="2 requests a second"):
            limit.take(client, 0.1)
    limit.take("a", 0.6)
    with pytest.raises(RateLimited):
        limit.take("a", 0.7)
    for _ in range(2):
        limit.take("a", 60.0)
    with pytest.raises(RateLimited):
        limit.take("a", 60.0)


def test_a_clock_that_stands_still_or_goes_back_gives_nothing():
    limit = RateLimit(1)
    limit.take("a", 5.0)
    for now in (5.0, 4.0):
        with pytest.raises(RateLimited):
            limit.take("a", now)


def test_the_number_of_clients_is_bounded():
    limit = RateLimit(1)
    for number in range(MAX_CLIENTS + 10):
        limit.take(str(number), 0.0)
    assert len(limit._buckets) == MAX_CLIENTS


@pytest.mark.parametrize(("text", "rate"), [("20/s", 20.0), ("0.5/s", 0.5), ("3", 3.0)])
def test_a_rate_is_a_number_a_second(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "0/s", "-1/s", "nan/s", "inf/s", "20/min", "1e9/s"])
def test_other_rates_are_refused(text):
    with pytest.raises(UsageError, match="--rate"):
        parse_rate(text)


def test_guesses_are_counted_by_address():
    access = Access(keys=(), rate=RateLimit(1))
    with pytest.raises(Unauthenticated):
        access.admit("wrong", "10.0.0.9", 0.0)
    with pytest.raises(RateLimited):
        access.admit("wrong", "10.0.0.9", 0.0)


@pytest.mark.parametrize(
    ("host", "origin", "site", "allowed"),
    [
        ("127.0.0.1:8000", None, None, True),
        ("localhost:8000", "http://localhost:8000", "same-origin", True),
        ("[::1]:8000", None, "none", True),
        ("127.0.0.1:8000", "http://evil.example", None, False),
        ("127.0.0.1:8000", "null", None, False),
        ("127.0.0.1:8000", None, "cross-site", False),
        ("127.0.0.1:8000", "http://127.0.0.1:9", None, False),
        ("rebound.example:8000", None, None, False),
    ],
)
def test_pages_of_other_sites_are_not_answered(host, origin, site, allowed):
    access = Access()
    if allowed:
        access.check_site(host, origin, site)
    else:
        with pytest.raises(Refused):
            access.check_site(host, origin, site)


def test_a_key_is_a_bearer_or_a_header_of_its_own():
    assert bearer("Bearer k", None) == "k"
    assert bearer("bearer k", "other") == "k"
    assert bearer("Basic k", "own") == "own"
    assert bearer(None, None) is None
