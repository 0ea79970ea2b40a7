"""The error tree: codes for the wire, exit codes for the command line."""

from __future__ import annotations

import re

import pytest

from collab import errors
from collab.errors import BY_CODE, CollabError, RemoteError, from_wire

CLASSES = sorted(
    (c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, CollabError)),
    key=lambda c: c.__name__,
)


def test_every_error_has_a_code_of_its_own():
    assert len(CLASSES) > 20
    assert sorted(BY_CODE) == sorted(c.code for c in CLASSES)
    assert all(re.fullmatch("[a-z_]+", code) for code in BY_CODE)
    assert all("code" in vars(c) for c in CLASSES)


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_an_error_comes_back_from_the_wire_as_its_own_class(error):
    back = from_wire(error.code, "what happened")
    assert type(back) is error
    assert str(back) == "what happened"


@pytest.mark.parametrize("code", ["", "from-the-future", "INTERNAL"])
def test_an_unknown_code_becomes_a_remote_error(code):
    back = from_wire(code, "what happened")
    assert type(back) is RemoteError
    assert str(back) == "what happened"


@pytest.mark.parametrize(
    ("exit_code", "names"),
    [
        (2, {"UsageError", "ConfigError"}),
        (3, {"NodeLost", "PeerUnreachable", "LinkLost"}),
        (4, {"Refused", "LimitExceeded", "Unauthenticated"}),
    ],
)
def test_exit_codes_are_those_of_the_design(exit_code, names):
    assert {c.__name__ for c in CLASSES if c.exit_code == exit_code} == names


def test_all_other_errors_exit_with_one():
    assert {c.exit_code for c in CLASSES} == {1, 2, 3, 4}
