"""What is advertised comes back as it was; what strangers send is bounded or refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.discovery.base import MAX_ENDPOINTS, Sighting
from collab.discovery.coap import decode, encode_answer, encode_request, wanted
from collab.discovery.mdns import service_info
from collab.discovery.records import (
    MAX_JSON_BYTES,
    TXT_BYTES,
    from_json,
    from_links,
    from_txt,
    parse_links,
    to_json,
    to_links,
    to_txt,
)
from collab.errors import ProtocolError

ME = Sighting(
    name="pi-1",
    endpoints=("grpc://10.0.0.7:7070", "coap+udp://[fd00::7]:5690"),
    cluster="home",
    software="collab/1.2",
    role="node",
    instance="0123456789abcdef",
)

names = st.from_regex(r"[a-z0-9A-Z]([a-z0-9A-Z_.-]{0,61}[a-z0-9A-Z])?", fullmatch=True)
hosts = st.from_regex(r"[a-z0-9.-]{1,120}", fullmatch=True)
nodes = st.builds(
    Sighting,
    name=names,
    endpoints=st.lists(hosts.map(lambda h: f"grpc://{h}:1"), max_size=MAX_ENDPOINTS, unique=True).map(tuple),
    cluster=st.sampled_from(["", "home"]),
    software=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=64),
    role=st.sampled_from(["", "node", "controller"]),
    instance=st.sampled_from(["", "0123456789abcdef"]),
)


def said(sighting: Sighting) -> Sighting:
    return msgspec.structs.replace(sighting, how="", ttl_s=60.0, source="")


def as_txt(me: Sighting) -> dict[bytes, bytes | None]:
    return {key.encode(): value.encode() for key, value in to_txt(me).items()}


@given(nodes)
def test_txt_records_come_back_without_what_does_not_fit(me: Sighting) -> None:
    back = from_txt(as_txt(me), "mdns", 60, "s")
    assert set(back.endpoints) <= set(me.endpoints)
    assert said(msgspec.structs.replace(back, endpoints=())) == said(
        msgspec.structs.replace(me, endpoints=())
    )
    assert sum(len(key) + len(value) + 2 for key, value in to_txt(me).items()) <= TXT_BYTES + 1
    service_info(me)


@given(nodes)
def test_presences_come_back(me: Sighting) -> None:
    data = to_json(me, 60)
    assert len(data) <= MAX_JSON_BYTES
    assert said(from_json(data, "mqtt", "s")) == said(me)


@given(nodes)
def test_links_come_back(me: Sighting) -> None:
    (back,) = from_links(parse_links(to_links(me)), "coap", 60)
    assert said(back) == said(me)


@given(nodes, st.binary(max_size=8))
def test_answers_to_the_group_fit_a_datagram_and_name_the_node(me: Sighting, token: bytes) -> None:
    request = decode(encode_request(token, 7))
    assert request is not None
    repeated = wanted(request)
    assert repeated is not None
    data = encode_answer(me, repeated)
    assert len(data) <= 1024 + 32
    answer = decode(data)
    assert answer is not None
    assert answer.token == token
    (back,) = from_links(parse_links(answer.payload.decode()), "coap", 60)
    assert back.name == me.name


def test_newcomers_and_filters_for_other_things_are_told_apart() -> None:
    arrived = decode(encode_request(b"t", 1, arrived=True))
    assert arrived is not None
    assert wanted(arrived) is not None
    assert wanted(decode(encode_answer(ME, wanted(arrived)))) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"v":1}',
        b'{"v":1,"name":""}',
        b'{"v":1,"name":"../x"}',
        b'{"v":1,"name":"a","endpoints":"grpc://h:1"}',
        b'{"v":1,"name":"a","endpoints":[1]}',
        b'{"v":1,"name":"a","cluster":"A B"}',
        b'{"v":1,"name":"a","ttl_s":"long"}',
        b"\xff" * 10,
        b'{"v":1,"name":"' + b"a" * 9000 + b'"}',
        b"[" * 5000,
    ],
)
def test_presences_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        from_json(data, "mqtt", "s")


def test_a_presence_may_have_fields_that_are_not_known_yet() -> None:
    document = {**json.loads(to_json(ME, 60)), "later": {"x": 1}}
    assert said(from_json(json.dumps(document).encode(), "mqtt", "s")) == said(ME)


def test_bad_endpoints_of_a_presence_do_not_hide_good_ones() -> None:
    endpoints = ["grpc://h:1", "no address", "grpc://\x1b[31m", "x" * 500, "javascript:1", "grpc://h:1"]
    document = {"v": 1, "name": "a", "endpoints": endpoints, "software": "\x1b]0;x\x07ok", "role": "king"}
    back = from_json(json.dumps(document).encode(), "mqtt", "s")
    assert back.endpoints == ("grpc://h:1",)
    assert (back.software, back.role) == ("]0;xok", "")


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("", []),
        ("<>", [("", {})]),
        (
            '</s>;rt="a b";obs,<coap://h>;ct=40',
            [("/s", {"rt": "a b", "obs": ""}), ("coap://h", {"ct": "40"})],
        ),
        ('</s>;x="a,b;c<d>\\"e"', [("/s", {"x": 'a,b;c<d>"e'})]),
        ("</s>;x=1;x=2", [("/s", {"x": "1"})]),
    ],
)
def test_link_format_is_read(text: str, links: list[Any]) -> None:
    assert parse_links(text) == links


@pytest.mark.parametrize("text", ["x", "<a", '</s>;x="', "</s></t>", "</s>,,", "<a>" + ",<a>" * 5000])
def test_what_is_no_link_format_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_links(text)


@given(st.dictionaries(st.sampled_from([b"txtvers", b"name", b"e0", b"e15", b"id"]), st.binary(max_size=255)))
def test_any_txt_record_is_bounded_or_refused(entries: dict[bytes, bytes]) -> None:
    with contextlib.suppress(ProtocolError):
        _is_bounded(from_txt({b"txtvers": b"1", **entries}, "mdns", 60, "s"))


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False), st.text(max_size=20)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=4),
                st.dictionaries(
                    st.sampled_from(["v", "name", "endpoints", "ttl_s", "cluster"]), inner, max_size=5
                ),
            ),
        ).map(lambda document: json.dumps(document).encode()),
    )
)
def test_any_presence_is_bounded_or_refused(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        _is_bounded(from_json(data, "mqtt", "s"))


@given(st.text(st.sampled_from('<>;,="\\ abrtep/:collab.node'), max_size=80))
def test_any_links_are_bounded_or_refused(text: str) -> None:
    try:
        found = from_links(parse_links(text), "coap", 60)
    except ProtocolError:
        return
    for sighting in found:
        _is_bounded(sighting)


@given(st.binary(max_size=100))
def test_any_datagram_is_read_or_dropped(data: bytes) -> None:
    message = decode(data)
    if message is not None:
        wanted(message)


def _is_bounded(sighting: Sighting) -> None:
    assert sighting.name
    assert len(sighting.name) <= 63
    assert len(sighting.endpoints) <= MAX_ENDPOINTS
    assert 1 <= sighting.ttl_s <= 3600
    assert sighting.software.isprintable()
    assert sighting.instance.isprintable()
