"""Releases signed by keys that never leave a token: SoftHSM2 behind its PKCS#11 library.

Run by `test_keys_in_hardware.py` in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("tuf")
pytest.importorskip("pkcs11")

import pkcs11
from pkcs11 import Attribute, KeyType
from pkcs11.util import biginteger
from pkcs11.util.ec import encode_named_curve_parameters
from securesystemslib.signer import Signer

from collab.cli import release_fetch
from collab.cli.release import app
from collab.errors import BackendError, InputError, UsageError

release_fetch.register(app)

PIN = "43210"
LIBRARIES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so")


@pytest.fixture(scope="module")
def token(tmp_path_factory):
    """A token ``releases`` with the keys 2, 3 and 4; the library reads its configuration once a process."""
    if shutil.which("softhsm2-util") is None:
        pytest.fail("softhsm2-util is missing: apt-get install softhsm2", pytrace=False)
    folder = tmp_path_factory.mktemp("hardware")
    (folder / "tokens").mkdir()
    (folder / "conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n", "utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SOFTHSM2_CONF", str(folder / "conf"))
        patched.setenv("PYKCS11LIB", next(name for name in LIBRARIES if Path(name).exists()))
        for label in ("releases", "other"):
            made = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN]
            subprocess.run([*made, "--so-pin", "87654"], check=True, capture_output=True)
        for label, numbers in (("releases", (2, 3, 4)), ("other", (2,))):
            held = pkcs11.lib(os.environ["PYKCS11LIB"]).get_token(token_label=label)
            with held.open(rw=True, user_pin=PIN) as session:
                curve = encode_named_curve_parameters("secp256r1")
                parameters = session.create_domain_parameters(
                    KeyType.EC, {Attribute.EC_PARAMS: curve}, local=True
                )
                for number in numbers:
                    parameters.generate_keypair(store=True, id=biginteger(number), label=f"key-{number}")
        yield


@pytest.fixture
def release(token, tmp_path, monkeypatch):
    monkeypatch.setenv("COLLAB_RELEASE_PASSPHRASE", "a passphrase")
    monkeypatch.setenv("COLLAB_RELEASE_PASSPHRASE_PIN", PIN)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").write_bytes(os.urandom(5_000))

    def run(text: str):
        result = CliRunner().invoke(app, [*text.split(), "--json"])
        if result.exception is not None:
            raise result.exception
        return json.loads(result.stdout)

    return run


@pytest.fixture
def repository(release):
    """Root and channel are signed in hardware, what a server signs daily is not."""
    there = "--key root=hsm:2?label=releases --key digits.stable=hsm:3?label=releases"
    made = release(f"init repo --keys keys --family digits --channels stable --role root=1/1 {there}")
    assert made["missing"] == {}
    return release


PUBLISH = "publish repo m --family digits --channel stable --keys keys"


def stable(release) -> str:
    rows = {row["role"]: row["keys"] for row in release("list repo")["roles"]}
    return str(rows["digits.stable"][0])


def test_a_device_trusts_what_hardware_signed_and_what_the_next_key_signs(repository, tmp_path):
    assert not (tmp_path / "keys/root").exists()
    assert not (tmp_path / "keys/digits.stable").exists()
    assert "digits.stable" in repository(PUBLISH)["published"]
    fetch = "fetch repo digits --store device --trust repo/metadata/1.root.json"
    assert repository(fetch)["release"]["version"] == 1
    old = stable(repository)
    fresh = f"--key digits.stable=hsm:4?label=releases --drop {old[:8]}"
    done = repository(f"rotate-keys repo digits.stable {fresh} --keys keys")
    assert done["missing"] == {}
    assert stable(repository) != old
    (tmp_path / "m").write_bytes(os.urandom(5_000))
    repository(PUBLISH)
    got = repository(fetch)
    assert got["release"]["version"] == 2
    assert (tmp_path / got["file"]).read_bytes() == (tmp_path / "m").read_bytes()
    assert "root" in repository("refresh repo --role root --keys keys")["published"]


def test_a_token_that_is_elsewhere_signs_later(repository, monkeypatch):
    library = os.environ["PYKCS11LIB"]
    monkeypatch.delenv("PYKCS11LIB")
    assert repository(PUBLISH)["missing"] == {"digits.stable": 1}
    monkeypatch.setenv("PYKCS11LIB", library)
    assert "digits.stable" in repository("sign repo --keys keys")["published"]


def test_what_hardware_refuses_is_one_line_and_nothing_is_served(repository, monkeypatch, tmp_path):
    monkeypatch.setenv("COLLAB_RELEASE_PASSPHRASE_PIN", "1")
    with pytest.raises(InputError, match=r"key \w{12} at hsm:3\?label=releases: Pin"):
        repository(PUBLISH)
    monkeypatch.delenv("COLLAB_RELEASE_PASSPHRASE_PIN")
    with pytest.raises(UsageError, match=r"pin of hsm:3\?label=releases: set COLLAB_RELEASE_PASSPHRASE_PIN"):
        repository(PUBLISH)
    library = os.environ["PYKCS11LIB"]
    monkeypatch.setenv("PYKCS11LIB", str(tmp_path / "none.so"))
    with pytest.raises(InputError, match=r"PYKCS11LIB=.*none\.so"):
        repository("sign repo --keys keys")
    assert not (tmp_path / "repo/metadata/2.digits.stable.json").exists()
    # It waits for the right PIN.
    monkeypatch.setenv("COLLAB_RELEASE_PASSPHRASE_PIN", PIN)
    monkeypatch.setenv("PYKCS11LIB", library)
    assert "digits.stable" in repository("sign repo --keys keys")["published"]


def test_another_token_of_the_same_name_cannot_pass_for_it(release, monkeypatch, tmp_path):
    there = "--key digits.stable=hsm:2?label=other"
    release(f"init repo --keys keys --family digits --channels stable --role root=1/1 {there}")
    named = (tmp_path / "repo/metadata/1.targets.json").read_text("utf-8")
    assert "hsm:2?label=other" in named
    # The label of somebody else's token, as if both had been given the same.
    real = Signer.from_priv_key_uri
    monkeypatch.setattr(
        Signer,
        "from_priv_key_uri",
        lambda uri, *more: real(uri.replace("other", "releases"), *more),
    )
    with pytest.raises(InputError, match="another key"):
        release(PUBLISH)


def test_a_key_that_no_token_has_is_named(release, monkeypatch):
    init = "init repo --keys keys --family digits --key root=hsm:{}"
    for key, message in (
        ("9?label=releases", "could not find ECDSA key"),
        ("2?label=nobody", "No PKCS#11 token found"),
        ("two?label=releases", "the number of a key"),
    ):
        with pytest.raises(InputError, match=message):
            release(init.format(key))
    monkeypatch.delenv("PYKCS11LIB")
    with pytest.raises(InputError, match="set PYKCS11LIB"):
        release(init.format("2"))


def test_the_extra_is_named_where_it_is_missing(release, monkeypatch):
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(BackendError, match=r"pip install 'collab\[hsm\]'"):
        release("init repo --keys keys --family digits --key root=hsm:2?label=releases")
