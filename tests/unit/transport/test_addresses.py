"""Addresses: schemes, hosts, ports, loopback, and where a wildcard can be reached."""

from __future__ import annotations

import ipaddress
import re

import pytest

from collab.errors import UsageError
from collab.transport import base
from collab.transport.base import contact_host, is_loopback, split_address, split_host_port


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("grpc://10.0.0.7:7070", ("grpc", "10.0.0.7:7070")),
        ("10.0.0.7:7070", ("grpc", "10.0.0.7:7070")),
        ("[::1]:7070", ("grpc", "[::1]:7070")),
        ("inproc://a", ("inproc", "a")),
        ("mqtt://broker:1883/topic", ("mqtt", "broker:1883/topic")),
        ("x://y://z", ("x", "y://z")),
    ],
)
def test_an_address_is_a_scheme_and_a_place_and_a_bare_place_means_grpc(address, parts):
    assert split_address(address) == parts


@pytest.mark.parametrize("address", ["", "://", "grpc://", "://host:1"])
def test_half_an_address_is_refused_with_an_example(address):
    with pytest.raises(
        UsageError, match=f"^address '{address}': write it as scheme://place, such as grpc://"
    ):
        split_address(address)


@pytest.mark.parametrize(
    ("place", "parts"),
    [
        ("host:1", ("host", 1)),
        ("127.0.0.1:65535", ("127.0.0.1", 65535)),
        (":0", ("", 0)),
        ("[::]:7070", ("::", 7070)),
        ("[fe80::1%eth0]:7070", ("fe80::1%eth0", 7070)),
    ],
)
def test_a_place_is_a_host_and_a_port(place, parts):
    assert split_host_port(place) == parts


@pytest.mark.parametrize(
    "place", ["host", "host:", "host:http", "host:-1", "host:65536", "host: 1", "host:1.0", "host:\u0661", ""]
)
def test_a_place_without_a_port_is_refused(place):
    with pytest.raises(UsageError, match=r"write it as HOST:PORT with a port of 0 to 65535"):
        split_host_port(place)


@pytest.mark.parametrize("place", ["::1:7070", "[::1:7070", "::1]:7070", "a:b:1"])
def test_an_ipv6_address_needs_both_brackets(place):
    with pytest.raises(UsageError, match=re.escape("put an IPv6 address into brackets, as in [::1]:7070")):
        split_host_port(place)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.255.0.3", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("inproc", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("10.0.0.7", False),
        ("1.127.0.1", False),
        ("127.0.0.1.example.org", False),
        ("127.example.org", False),
        ("localhost.example.org", False),
        ("::ffff:10.0.0.1", False),
    ],
)
def test_only_hosts_of_this_machines_own_interface_are_loopback(host, loopback):
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("host", "contact"),
    [("10.0.0.7", "10.0.0.7"), ("pi.local", "pi.local"), ("::1", "[::1]"), ("fd00::2", "[fd00::2]")],
)
def test_a_host_that_is_no_wildcard_is_contacted_as_it_is(host, contact):
    assert contact_host(host) == contact


@pytest.mark.parametrize(("host", "version"), [("", 4), ("0.0.0.0", 4), ("::", 6)])
def test_a_wildcard_is_contacted_at_an_address_of_its_family(host, version):
    address = ipaddress.ip_address(contact_host(host).strip("[]"))
    assert address.version == version
    assert not address.is_unspecified


@pytest.mark.parametrize(("host", "contact"), [("", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]")])
def test_without_a_route_a_wildcard_is_contacted_over_loopback(monkeypatch, host, contact):
    monkeypatch.setattr(base, "_own_address", lambda family: None)
    assert contact_host(host) == contact
