"""Context files: made in pairs, refused where they cannot be what they say, taken back by removing them."""

from __future__ import annotations

import json
import shutil
import stat
from datetime import datetime, timedelta, timezone

import pytest

from collab.core.identity import Principal
from collab.errors import CollabError, ConfigError, InputError, Refused
from collab.security.object_security import (
    SECRET,
    SEQUENCE,
    SETTINGS,
    ContextFolder,
    Seen,
    Used,
    check_enrolled,
    open_contexts,
    write_pair,
)
from collab.security.records import Issued

NODE = Principal("pi-1", "node", "home")
CLIENT = Principal("meter", "client", "home")
NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def pair(tmp_path):
    """The client's and the node's folder."""
    return write_pair(tmp_path / "contexts", CLIENT, NODE)


def change(path, **fields):
    """Alter a file as somebody with the right to write it would."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refused(path, kind: type[CollabError], said: str, node: Principal = NODE):
    with pytest.raises(kind, match=said):
        ContextFolder(path, node).close()


def test_a_pair_is_private_and_its_ends_mirror_each_other(pair, tmp_path):
    clients, nodes = pair
    assert (clients, nodes) == (tmp_path / "contexts/meter/pi-1", tmp_path / "contexts/pi-1/meter")
    ours, theirs = (json.loads((end / SETTINGS).read_text()) for end in (nodes, clients))
    assert ours["sender-id_hex"] == theirs["recipient-id_hex"] != ours["recipient-id_hex"]
    assert (nodes / SECRET).read_text() == (clients / SECRET).read_text()
    for end in pair:
        assert [stat.S_IMODE(p.stat().st_mode) for p in (end, end.parent)] == [0o700, 0o700]
        assert {stat.S_IMODE(p.stat().st_mode) for p in end.iterdir()} == {0o600}


def test_no_two_pairs_share_a_secret_or_a_clients_identifier(pair, tmp_path):
    other = write_pair(tmp_path / "contexts", Principal("other", "client", "home"), NODE)
    first, second = (ContextFolder(end[1], NODE) for end in (pair, other))
    assert not {first.keys.secret, first.keys.salt} & {second.keys.secret, second.keys.salt}
    assert first.keys.recipient_id != second.keys.recipient_id
    assert len(first.keys.secret) == 16
    for folder in (first, second):
        folder.close()


def test_a_pair_is_never_written_over_another(pair, tmp_path):
    before = (pair[1] / SECRET).read_bytes()
    with pytest.raises(Refused, match="holds something"):
        write_pair(tmp_path / "contexts", CLIENT, NODE)
    assert (pair[1] / SECRET).read_bytes() == before
    shutil.rmtree(pair[1])
    with pytest.raises(Refused, match="holds something"):
        write_pair(tmp_path / "contexts", CLIENT, NODE)
    assert not pair[1].exists()
    with pytest.raises(InputError, match="node's name"):
        write_pair(tmp_path / "contexts", Principal("PI-1", "client", "home"), NODE)


@pytest.mark.parametrize("name", [SETTINGS, SECRET, SEQUENCE])
def test_a_file_that_others_can_read_is_refused(pair, name):
    (pair[1] / name).chmod(0o640)
    refused(pair[1], Refused, "others can read")


@pytest.mark.parametrize("name", [SETTINGS, SECRET, SEQUENCE])
def test_a_context_without_one_of_its_files_is_refused(pair, name):
    (pair[1] / name).unlink()
    refused(pair[1], ConfigError, f"{name}.*collab cluster oscore")


def test_the_clients_end_is_no_nodes(pair):
    refused(pair[0], Refused, "client's end")


@pytest.mark.parametrize("role", ["operator", "node", "controller"])
def test_a_context_can_only_name_a_client(pair, role):
    change(pair[1] / SETTINGS, client=f"meter.{role}.home")
    refused(pair[1], Refused, "only name a client")


def test_a_context_of_another_node_or_cluster_is_refused(pair):
    refused(pair[1], Refused, "each node needs its own", Principal("pi-2", "node", "home"))
    change(pair[1] / SETTINGS, client="meter.client.work")
    refused(pair[1], Refused, "another cluster")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (SETTINGS, {"client": "meter"}),
        (SETTINGS, {"sender-id_hex": "0"}),
        (SETTINGS, {"sender-id_hex": "00" * 8}),
        (SETTINGS, {"recipient-id_hex": "00"}),
        (SETTINGS, {"window": 1 << 20}),
        (SETTINGS, {"algorithm": "A128GCM"}),
        (SETTINGS, {"id-context_hex": "00"}),
        (SECRET, {"secret_hex": "00" * 15}),
        (SECRET, {"secret_hex": 5}),
        (SEQUENCE, {"next-to-send": -1}),
        (SEQUENCE, {"next-to-send": 1 << 40}),
        (SEQUENCE, {"received": {"index": 0, "bitfield": 1 << 32}}),
        (SEQUENCE, {"received": "lost"}),
    ],
)
def test_what_cannot_be_in_a_file_is_refused_with_the_files_name(pair, name, fields):
    change(pair[1] / name, **fields)
    refused(pair[1], ConfigError, name)


def test_a_context_is_one_process_at_a_time(pair):
    held = ContextFolder(pair[1], NODE)
    refused(pair[1], Refused, "another process")
    held.close()
    ContextFolder(pair[1], NODE).close()


def test_what_was_used_is_kept(pair):
    held = ContextFolder(pair[1], NODE)
    assert held.sequence == Used(0, Seen(0, 0))
    held.store(Used(70, "unknown"))
    held.close()
    again = ContextFolder(pair[1], NODE)
    assert again.sequence == Used(70, "unknown")
    again.close()


def test_a_removed_context_is_not_present_even_if_another_took_its_place(pair, tmp_path):
    held = ContextFolder(pair[1], NODE)
    assert held.present()
    for end in pair:
        end.rename(end.with_name("old"))
    write_pair(tmp_path / "contexts", CLIENT, NODE)
    assert not held.present()
    with pytest.raises(Refused, match="taken back"):
        held.store(Used(5, "unknown"))
    held.close()
    assert json.loads((pair[1] / SEQUENCE).read_text())["next-to-send"] == 0


def test_all_contexts_of_a_node_are_opened_and_one_that_fails_frees_the_others(pair, tmp_path):
    directory = pair[1].parent
    write_pair(tmp_path / "contexts", Principal("other", "client", "home"), NODE)
    (directory / ".hidden").mkdir()
    (directory / "notes.txt").touch()
    opened = open_contexts(directory, NODE)
    assert [folder.client.name for folder in opened] == ["meter", "other"]
    for folder in opened:
        folder.close()
    identifier = json.loads((directory / "meter" / SETTINGS).read_text())["recipient-id_hex"]
    change(directory / "other" / SETTINGS, **{"recipient-id_hex": identifier})
    for _ in range(2):  # a second time, as nothing stayed locked
        with pytest.raises(Refused, match="identifier"):
            open_contexts(directory, NODE)
    with pytest.raises(ConfigError, match="--coap-oscore"):
        open_contexts(directory / "none", NODE)


def issued(name: str, role: str, revoked: datetime | None = None) -> Issued:
    return Issued(
        serial="1",
        name=name,
        role=role,
        hosts=[],
        not_before=NOW,
        not_after=NOW + timedelta(1),
        revoked=revoked,
    )


def test_names_have_to_fit_what_the_authority_has_issued():
    check_enrolled(CLIENT, NODE, [issued("pi-1", "node"), issued("meter", "client")], NOW)
    for known in ([], [issued("pi-1", "client")], [issued("pi-1", "node", NOW)]):
        with pytest.raises(InputError, match="no live certificate"):
            check_enrolled(CLIENT, NODE, known, NOW)
    with pytest.raises(Refused, match="enrolled as operator"):
        check_enrolled(CLIENT, NODE, [issued("pi-1", "node"), issued("Meter", "operator")], NOW)
