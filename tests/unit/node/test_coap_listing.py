"""The list of resources and its filter, as RFC 6690 has them."""

from __future__ import annotations

import pytest

from collab.node.coap.listing import Link, render

LINKS = [
    Link("/node", {"rt": "collab.node", "if": "core.rp", "ct": "50 60", "sz": "150"}),
    Link("/status", {"rt": "collab.status", "ct": "50 60"}, observable=True),
    Link("/plans/p/run", {"rt": "collab.run", "if": "core.p", "ct": "42"}),
]


def test_links_are_written_as_the_grammar_says():
    assert render(LINKS[:2]).decode() == (
        '</node>;rt="collab.node";if="core.rp";ct="50 60";sz=150,</status>;rt="collab.status";ct="50 60";obs'
    )


@pytest.mark.parametrize(
    ("query", "paths"),
    [
        ("rt=collab.node", ["/node"]),
        ("rt=collab.*", ["/node", "/status", "/plans/p/run"]),
        ("href=/plans*", ["/plans/p/run"]),
        ("ct=60", ["/node", "/status"]),
        ("ct=6*", ["/node", "/status"]),
        ("if=core.p", ["/plans/p/run"]),
        ("obs", ["/status"]),
        ("title=x", []),
        ("", []),
        ("=", []),
        ("rt=", []),
    ],
)
def test_a_filter_lets_through_what_fits(query, paths):
    assert render(LINKS, [query]) == render([link for link in LINKS if link.path in paths])


def test_every_filter_must_be_passed():
    assert render(LINKS, ["rt=collab.*", "if=core.rp"]) == render(LINKS[:1])
