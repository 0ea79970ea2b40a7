"""The page over HTTP, without a socket: who is answered, who is refused, and what every answer carries."""

import asyncio
import json
from itertools import count

import httpx
import pytest

from collab.dashboard import app as module
from collab.dashboard.access import MAX_BODY, MAX_STREAMS, Sessions
from collab.dashboard.app import COOKIE, HEADERS, TOKEN, dashboard_app
from collab.dashboard.source import Action, Changes
from collab.dashboard.state import Board
from collab.dashboard.stream import EventStream
from collab.errors import PeerUnreachable, Refused
from collab.transport.aio import timeout
from tests.unit.dashboard.plans import look

BASE = "http://127.0.0.1:8080"
OWN = {"origin": BASE, "content-type": "application/json"}
KEYS = {"k-op": ("ann", "operator"), "k-view": ("vic", "viewer")}


class Fake:
    """A source that notes what is asked of it."""

    def __init__(self):
        self.board = Board()
        self.actions = {"drain": Action("Drain", "Drain {}?", "node")}
        self.asked = []
        self.changes = Changes(self.board)

    async def act(self, action, target, by):
        self.asked.append((action, target, by))
        if target == "gone":
            raise PeerUnreachable("node 'gone': no link to it")
        return "done"

    async def changed(self, version):
        return await self.changes.wait(version)


def who(key):
    if key not in KEYS:
        raise Refused("this API key is not known here")
    return KEYS[key]


@pytest.fixture
def source():
    return Fake()


@pytest.fixture
async def client(source):
    numbers = count()
    sessions = Sessions(who, lambda: f"secret-{next(numbers)}")
    app = await asyncio.to_thread(dashboard_app, source, sessions)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as made:
        yield made


async def sign_in(client, key):
    answer = await client.post("/session", headers=OWN, json={"key": key})
    assert answer.status_code == 200, answer.text
    return {**OWN, TOKEN: answer.json()["token"]}


async def test_every_answer_has_the_security_headers(client):
    for path in ("/", "/assets/app.js", "/session", "/state", "/nothing", "/assets/nothing.js"):
        answer = await client.get(path)
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, path
    policy = HEADERS["content-security-policy"]
    assert "unsafe-inline" not in policy
    assert "frame-ancestors 'none'" in policy


async def test_the_page_has_no_script_or_style_inline_and_loads_only_what_ships(client):
    page = (await client.get("/")).text
    assert "<style" not in page
    assert " style=" not in page
    assert "<script>" not in page
    assert "http://" not in page
    assert "https://" not in page
    for name in module._TYPES:
        answer = await client.get("/" if name == "index.html" else f"/assets/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == module._TYPES[name]


@pytest.mark.parametrize(
    "path",
    [
        *("/assets/../app.py", "/assets/..%2fapp.py", "/assets/%2e%2e/app.py", "/assets/%00"),
        *("/assets//etc/passwd", "/assets/uplot.LICENSE", "/../access.py", "/assets/"),
    ],
)
async def test_no_path_reaches_another_file(client, path):
    assert (await client.get(path)).status_code == 404


async def test_nothing_is_told_without_a_session(client):
    for path in ("/state", "/events"):
        assert (await client.get(path)).status_code == 401
    answer = await client.post("/actions/drain", headers=OWN, json={"target": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthenticated")
    assert (await client.get("/session")).json() == {"sign_in": True}


async def test_a_wrong_key_is_refused(client):
    answer = await client.post("/session", headers=OWN, json={"key": "guess"})
    assert (answer.status_code, COOKIE in client.cookies) == (403, False)


async def test_a_cookie_is_of_this_site_alone_and_no_script_reads_it(client):
    answer = await client.post("/session", headers=OWN, json={"key": "k-view"})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "k-view" not in cookie


async def test_a_viewer_sees_and_cannot_act(client, source):
    headers = await sign_in(client, "k-view")
    source.board.see(look("a"), 1.0)
    assert "node:a" in (await client.get("/state")).json()["set"]
    assert (await client.get("/session")).json()["actions"] == {}
    answer = await client.post("/actions/drain", headers=headers, json={"target": "a"})
    assert answer.status_code == 403
    assert source.asked == []


async def test_an_operator_acts_under_the_own_name(client, source):
    headers = await sign_in(client, "k-op")
    answer = await client.post("/actions/drain", headers=headers, json={"target": "a"})
    assert (answer.status_code, answer.json()) == (200, {"said": "done"})
    assert source.asked == [("drain", "a", "ann")]
    answer = await client.post("/actions/drain", headers=headers, json={"target": "gone"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "unreachable")


@pytest.mark.parametrize(
    "change",
    [
        {"origin": "http://evil.example"},
        {"origin": None},
        {"sec-fetch-site": "cross-site"},
        {"host": "rebound.example"},
        {TOKEN: "guess"},
        {TOKEN: None},
    ],
)
async def test_an_action_that_is_not_of_the_own_page_is_refused(client, source, change):
    headers = {**await sign_in(client, "k-op"), **change}
    headers = {name: value for name, value in headers.items() if value is not None}
    answer = await client.post("/actions/drain", headers=headers, json={"target": "a"})
    assert (answer.status_code, source.asked) == (403, [])


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"x" * (MAX_BODY + 1), "application/json", 413),
        (b"not json", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b"[" * 4000, "application/json", 400),
        (b"{}", "application/json", 400),
        (b'{"target": 3}', "application/json", 400),
        (b'{"target": "a"}', "text/plain", 400),
        (b"target=a", "application/x-www-form-urlencoded", 400),
    ],
)
async def test_a_body_that_is_no_small_json_object_is_refused(client, source, body, kind, status):
    headers = {**await sign_in(client, "k-op"), "content-type": kind}
    answer = await client.post("/actions/drain", headers=headers, content=body)
    assert (answer.status_code, source.asked) == (status, [])


async def test_a_body_that_does_not_come_is_not_waited_for(client, monkeypatch):
    monkeypatch.setattr(module, "BODY_S", 0.02)

    async def slow():
        yield b'{"key"'
        await asyncio.sleep(30)

    answer = await client.post("/session", headers=OWN, content=slow())
    assert answer.status_code == 413


async def test_get_does_not_act(client):
    headers = await sign_in(client, "k-op")
    assert (await client.get("/actions/drain", headers=headers)).status_code == 405


async def test_who_signs_out_is_out(client):
    await sign_in(client, "k-op")
    old = client.cookies[COOKIE]
    await client.post("/session/end", headers=OWN, json={})
    client.cookies.set(COOKIE, old)
    assert (await client.get("/state")).status_code == 401


async def test_pages_that_are_told_of_changes_are_bounded(client, source, monkeypatch):
    await sign_in(client, "k-view")
    monkeypatch.setattr(module, "MAX_STREAMS", 0)
    assert (await client.get("/events")).status_code == 429
    assert MAX_STREAMS <= 256


class Page:
    """A page at the other end of a stream; ``takes`` is asked for each message."""

    def __init__(self, source, known=""):
        self.news: list[dict] = []
        self.open: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.got = asyncio.Condition()
        self.stream = EventStream(source, "here", known, self.open.append)

    async def send(self, message):
        await self.gate.wait()
        for line in message.get("body", b"").decode().splitlines():
            if line.startswith("data: "):
                async with self.got:
                    self.news.append(json.loads(line[6:]))
                    self.got.notify_all()

    async def receive(self):
        await asyncio.Event().wait()

    async def until(self, messages):
        async with timeout(10), self.got:
            await self.got.wait_for(lambda: len(self.news) >= messages)


@pytest.fixture
async def quick(monkeypatch):
    monkeypatch.setattr("collab.dashboard.stream.LEAST_S", 0.01)


async def test_a_slow_page_gets_one_message_with_all_that_happened_meanwhile(source, quick):
    page = Page(source)
    task = asyncio.ensure_future(page.stream({}, page.receive, page.send))
    await page.until(1)
    page.gate.clear()
    for i in range(1000):
        source.board.see(look(f"n{i % 50}", state=f"state-{i}"), float(i))
        source.changes.tell()
        if i % 100 == 0:
            await asyncio.sleep(0)
    page.gate.set()
    await page.until(2)
    await asyncio.sleep(0.05)
    assert 2 <= len(page.news) <= 3
    latest = {key: value["state"] for news in page.news for key, value in news["set"].items()}
    assert latest["node:n49"] == "state-999"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert page.open == [1, -1]


async def test_a_page_that_takes_nothing_is_let_go(source, quick, monkeypatch):
    monkeypatch.setattr("collab.dashboard.stream.SEND_S", 0.02)
    page = Page(source)
    page.gate.clear()
    task = asyncio.ensure_future(page.stream({}, page.receive, page.send))
    page.gate.set()
    await page.until(1)
    page.gate.clear()
    source.board.note(1.0, "info", "node", "something")
    source.changes.tell()
    await asyncio.wait_for(task, 10)


async def test_a_page_that_comes_back_gets_what_it_missed_and_one_of_another_server_everything(source, quick):
    source.board.see(look("a"), 1.0)
    known = source.board.versions.version
    source.board.see(look("b"), 1.0)
    for told, whole in ((f"here-{known}", False), (f"other-{known}", True), ("here-" + "9" * 40, True)):
        page = Page(source, told)
        task = asyncio.ensure_future(page.stream({}, page.receive, page.send))
        await page.until(1)
        assert page.news[0]["whole"] is whole
        assert ("node:a" in page.news[0]["set"]) is whole
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_streams_end_with_the_source(source, quick):
    page = Page(source)
    task = asyncio.ensure_future(page.stream({}, page.receive, page.send))
    await page.until(1)
    source.changes.end()
    await asyncio.wait_for(task, 10)
