"""A page beside the protocol: whose path it is, and who may look and act."""

import pytest

from collab.cli.live_page import served_sessions
from collab.errors import Refused, Unauthenticated
from collab.security.api_keys import add_api_key, read_api_keys
from collab.serving.access import Access
from collab.serving.gate import Beside


async def whose(path):
    asked = []

    def app(name):
        async def serve(scope, receive, send):
            asked.append(name)

        return serve

    await Beside(app("protocol"), app("page"))({"type": "http", "path": path}, None, None)
    return asked


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        *((path, "protocol") for path in ("/v2", "/v2/", "/v2/models/x/infer", "/v1/files/x", "/metrics")),
        *((path, "protocol") for path in ("/openapi.json", "/v2/../", "/v1")),
        *((path, "page") for path in ("/", "/events", "/assets/app.js", "/v20", "/metricsx", "//v2", "")),
    ],
)
async def test_the_protocols_paths_are_its_own_and_all_others_the_pages(path, owner):
    assert await whose(path) == [owner]


def test_the_servers_keys_sign_in_with_their_roles(tmp_path):
    roles = ("viewer", "inference", "operator")
    keys = {role: add_api_key(tmp_path / "keys.txt", f"a-{role}", role) for role in roles}
    sessions = served_sessions(Access(keys=read_api_keys(tmp_path / "keys.txt"), loopback=False))
    assert sessions.asks_for_a_key
    for role in roles:
        _, session = sessions.sign_in(keys[role], "10.0.0.1", 0.0)
        assert (session.role, session.acts) == (role, role == "operator")
    with pytest.raises(Unauthenticated):
        sessions.sign_in("guess", "10.0.0.1", 0.0)
    sessions.check_site("models.example:8000", None, None)


@pytest.mark.parametrize(
    ("access", "acts"),
    [
        (Access(), True),
        (Access(role="inference"), False),
        (Access(loopback=False), False),
    ],
    ids=["this machine", "certificates", "an open network"],
)
def test_without_keys_only_this_machine_acts(access, acts):
    sessions = served_sessions(access)
    assert not sessions.asks_for_a_key
    assert sessions.open("127.0.0.1", 0.0)[1].acts is acts


def test_another_name_for_a_server_on_loopback_is_a_trick():
    with pytest.raises(Refused, match="loopback"):
        served_sessions(Access()).check_site("rebound.example", None, None)
