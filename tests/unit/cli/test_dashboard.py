"""``collab dashboard`` refuses what would let strangers look or act, and says what is missing."""

import pytest

from tests.integration.processes import command


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "no peers"),
        (("nowhere.yaml",), 1, "nowhere.yaml"),
        (("--peers", "127.0.0.1:1", "--listen", "0.0.0.0:8080"), 4, "give --api-keys FILE"),
        (("--peers", "127.0.0.1:1", "--profile", "P.json"), 2, "--profile: give the one plan"),
        (("--peers", "127.0.0.1:1", "--tls-cert", "c.pem"), 2, "give both or none"),
        (("--peers", "127.0.0.1:1", "--api-keys", "nowhere.txt"), 2, "nowhere.txt"),
        (("--peers", "127.0.0.1:1", "--insecure-network"), 2, "--insecure-network"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(arguments, code, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("COLLAB_PEERS", "COLLAB_IDENTITY"):
        monkeypatch.delenv(name, raising=False)
    finished = command("dashboard", *arguments)
    assert finished.code == code, finished.err
    assert len(finished.errors) == 1
    assert said in finished.errors[0]


def test_keys_beyond_this_machine_need_https(tmp_path):
    keys = tmp_path / "keys.txt"
    keys.touch(mode=0o600)
    finished = command("dashboard", "--peers", "127.0.0.1:1", "--listen", "0.0.0.0:0", "--api-keys", keys)
    assert (finished.code, "need HTTPS" in finished.err) == (4, True)
