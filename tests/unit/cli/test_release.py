"""``collab release``: people sign on their machines, a device fetches."""

from __future__ import annotations

import json
import os
import sys

import pytest
from typer.testing import CliRunner

pytest.importorskip("tuf")

from collab.cli import release_fetch
from collab.cli.release import app
from collab.errors import ConfigError, Conflict, InputError, Refused, UsageError

release_fetch.register(app)


@pytest.fixture
def release(tmp_path, monkeypatch):
    monkeypatch.setenv("COLLAB_RELEASE_PASSPHRASE", "a passphrase")
    monkeypatch.chdir(tmp_path)

    def run(text: str):
        result = CliRunner().invoke(app, [*text.split(), "--json"])
        if result.exception is not None:
            raise result.exception
        return json.loads(result.stdout)

    return run


@pytest.fixture
def repository(release, tmp_path):
    (tmp_path / "m").write_bytes(os.urandom(20_000))
    made = release("init repo --keys keys --family digits --role root=1/1 --role stable=2/2")
    assert made["missing"] == {}
    release("publish repo m --family digits --keys keys")
    return release


def test_a_model_goes_from_one_machine_over_two_signers_to_a_device(repository, tmp_path):
    held = tmp_path / "keys/digits.stable"
    for name, key in zip(("ann", "bob"), sorted(held.iterdir()), strict=True):
        (tmp_path / name).mkdir()
        key.rename(tmp_path / name / key.name)
    done = repository("promote repo digits 1 --keys keys --keys ann")
    assert (done["published"], done["missing"]) == ([], {"digits.stable": 1})
    assert "digits.stable" in repository("sign repo --keys keys --keys bob")["published"]
    repository("export repo digits --out stick.zip")
    root = "--trust repo/metadata/1.root.json"
    got = repository(f"fetch stick.zip digits --store device {root}")
    assert (got["way"], got["received"], got["release"]["version"]) == ("full", 20_000, 1)
    assert (tmp_path / got["file"]).read_bytes() == (tmp_path / "m").read_bytes()
    assert repository("fetch repo digits --store device --check")["release"]["sha256"] in got["file"]


def test_a_delta_is_listed_and_taken(repository, tmp_path):
    first = repository("fetch repo digits --channel staging --store device --trust repo/metadata/1.root.json")
    data = bytearray((tmp_path / "m").read_bytes())
    data[10_000:10_010] = b"0123456789"
    (tmp_path / "m").write_bytes(data)
    repository("publish repo m --family digits --devices pi-4 --keys keys")
    newest = repository("list repo")["releases"][0]
    assert newest["deltas"][0]["base_sha256"] == first["release"]["sha256"]
    got = repository("fetch repo digits --channel staging --store device --kind pi-4")
    assert got["way"] == newest["deltas"][0]["kind"]
    with pytest.raises(Refused, match="is for pi-4"):
        repository("fetch repo digits --channel staging --store device --version 2 --kind pi-3")


def test_keys_are_replaced_and_releases_withdrawn(repository):
    before = {r["role"]: r["keys"] for r in repository("list repo")["roles"]}["digits.staging"]
    done = repository(f"rotate-keys repo digits.staging --add 1 --drop {before[0][:8]} --keys keys")
    assert done["missing"] == {}
    assert {r["role"]: r["keys"] for r in repository("list repo")["roles"]}["digits.staging"] != before
    repository("withdraw repo digits 1 --channel staging --keys keys")
    assert repository("list repo")["releases"] == []
    assert repository("refresh repo --role targets --keys keys")["published"]
    repository("add-family repo faces --keys keys")
    got = repository("fetch repo faces --store device --trust repo/metadata/1.root.json")
    assert got == {"release": None}


def test_what_cannot_be_done_is_one_line(repository, monkeypatch):
    monkeypatch.delenv("PYKCS11LIB", raising=False)
    for text, error, match in (
        ("init new --keys keys --family a --role stable=two", UsageError, "stable=THRESHOLD/KEYS"),
        ("init new --keys keys --family a --days nobody=2", UsageError, "no such role"),
        ("init new --keys keys --family a --key root=hsm", UsageError, r"ROLE=URI,PUBLIC\.pem"),
        ("init new --keys keys --family a --key root=hsm:2", InputError, "set PYKCS11LIB"),
        ("publish repo m --family digits --version 1 --keys keys", Conflict, "next one is 2"),
        ("rotate-keys repo root --keys keys", UsageError, "give --add, --drop or --key"),
        ("fetch repo digits --store device --trust nowhere", UsageError, "nowhere"),
        ("list nowhere", ConfigError, "make one with `collab release init`"),
    ):
        with pytest.raises(error, match=match):
            repository(text)


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tuf.api.exceptions", None)
    monkeypatch.setitem(sys.modules, "tuf.api", None)
    for name in [
        name for name in sys.modules if name.startswith(("collab.updates.fetch.tr", "collab.updates.rep"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    result = CliRunner().invoke(app, ["list", str(tmp_path)])
    assert "pip install 'collab[updates]'" in str(result.exception)
