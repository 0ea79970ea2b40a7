from __future__ import annotations

import hashlib
import itertools
import json
import re
import subprocess
from pathlib import Path

import pytest

from scripts import wheelhouse

ROOT = Path(__file__).parents[3]
LOCK = (ROOT / "requirements" / "device.txt").read_text("utf-8")

SMALL = """\
# Made by hand.
one==1.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
two==2.0 ; python_full_version < '3.11' \\
    --hash=sha256:cc
two==2.1 ; python_full_version >= '3.11' \\
    --hash=sha256:dd
three==3 ; platform_machine == 'aarch64' and sys_platform == 'linux' \\
    --hash=sha256:ee
"""


def test_a_lock_is_read_pin_by_pin():
    assert list(wheelhouse.pins(SMALL))[:2] == [
        ("one==1.0", "", "--hash=sha256:aa \\\n    --hash=sha256:bb"),
        ("two==2.0", "python_full_version < '3.11'", "--hash=sha256:cc"),
    ]


def test_markers_are_those_of_the_machine_that_the_wheels_are_for():
    assert list(wheelhouse.pins_for(SMALL, "x86_64", "3.10")) == ["one==1.0", "two==2.0"]
    assert list(wheelhouse.pins_for(SMALL, "aarch64", "3.13")) == ["one==1.0", "two==2.1", "three==3"]


def test_pins_are_written_as_pip_reads_them():
    wanted = wheelhouse.pins_for(SMALL, "x86_64", "3.11")
    assert wheelhouse.render(wanted).startswith(
        "one==1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
    )
    assert wheelhouse.pins_for(wheelhouse.render(wanted), "x86_64", "3.11") == wanted


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", wheelhouse.PYTHONS)
def test_the_lock_pins_every_dependency_once_with_hashes_for_each_platform_and_python(arch, python):
    wanted = wheelhouse.pins_for(LOCK, arch, python)
    names = [requirement.partition("==")[0] for requirement in wanted]
    assert len(names) == len(set(names))
    assert {"ai-edge-litert", "prometheus-client", "starlette", "grpcio", "numpy", "msgspec"} <= set(names)
    assert ("taskgroup" in names) == (python == "3.10")
    assert all(re.fullmatch(r"(--hash=sha256:[0-9a-f]{64}(\s+\\\s+)?)+", each) for each in wanted.values())


def made_before(folder: Path, wheel: bytes) -> dict[str, str]:
    """A wheelhouse with one wheel, and what its lock asked for."""
    wanted = {"one==1.0": f"--hash=sha256:{hashlib.sha256(b'one').hexdigest()}"}
    (folder / "wheels").mkdir(parents=True)
    (folder / "wheels" / "one-1.0-py3-none-any.whl").write_bytes(wheel)
    (folder / "wheels" / "collab-0.1.0-py3-none-any.whl").write_bytes(b"older")
    (folder / "pins.txt").write_text(wheelhouse.render({**wanted, "collab==0.1.0": "--hash=sha256:00"}))
    return wanted


def test_wheels_of_an_unchanged_lock_are_not_fetched_again(tmp_path):
    wanted, to = made_before(tmp_path / "last", b"one"), tmp_path / "to"
    to.mkdir()
    assert wheelhouse.take_over(tmp_path / "last", wanted, to)
    assert [wheel.name for wheel in to.iterdir()] == ["one-1.0-py3-none-any.whl"]


@pytest.mark.parametrize(
    ("wheel", "more"), [(b"damaged", {}), (b"one", {"two==2.0": "--hash=sha256:cc"})], ids=["damaged", "more"]
)
def test_wheels_that_are_not_those_of_the_lock_are_fetched(tmp_path, wheel, more):
    wanted, to = made_before(tmp_path / "last", wheel), tmp_path / "to"
    to.mkdir()
    assert not wheelhouse.take_over(tmp_path / "last", {**wanted, **more}, to)
    assert not wheelhouse.take_over(tmp_path / "nothing", wanted, to)
    assert not list(to.iterdir())


class Index:
    """An index that has what it has, as pip tells of it."""

    def __init__(self, has: dict[str, str]) -> None:
        self.has, self.asked = has, 0

    def pip(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        self.asked += 1
        named = dict(itertools.pairwise(arguments))
        assert "--dry-run" in arguments
        install = []
        for requirement in Path(named["--requirement"]).read_text().split():
            if requirement not in self.has:
                words = f"ERROR: No matching distribution found for {requirement}"
                return subprocess.CompletedProcess([], 1, "", words)
            name, _, version = requirement.partition("==")
            info = {"archive_info": {"hashes": {"sha256": self.has[requirement]}}}
            metadata = {"name": name.title().replace("-", "."), "version": version}
            install.append({"metadata": metadata, "download_info": info})
        Path(named["--report"]).write_text(json.dumps({"install": install}))
        return subprocess.CompletedProcess([], 0, "", "")


def test_what_a_platform_lacks_is_all_named_and_so_is_a_wheel_that_the_lock_does_not_know(monkeypatch):
    index = Index({"one-a==1.0": "aa", "two==2.0": "other", "five==5": "55"})
    monkeypatch.setattr(wheelhouse, "_pip", index.pip)
    wanted = {"one-a==1.0": "--hash=sha256:aa", "two==2.0": "--hash=sha256:cc", "three==3": "", "four==4": ""}
    assert wheelhouse.lacking(wanted, "armv7l", "3.11") == ["four==4", "three==3", "two==2.0"]
    assert index.asked == 3
    assert wheelhouse.lacking({"one-a==1.0": "--hash=sha256:aa"}, "armv7l", "3.11") == []


def test_an_index_that_answers_nothing_is_no_platform_that_lacks_everything(monkeypatch):
    monkeypatch.setattr(wheelhouse, "_pip", Index({}).pip)
    with pytest.raises(SystemExit, match="finds nothing at all"):
        wheelhouse.lacking({"one==1.0": "", "two==2.0": ""}, "aarch64", "3.11")


def test_the_newest_tag_of_the_c_library_comes_first_and_no_other_machine_s():
    tags = wheelhouse.platforms("aarch64")
    assert tags[0] == "manylinux_2_35_aarch64"
    assert "manylinux2014_aarch64" in tags
    assert all(tag.endswith("_aarch64") for tag in tags)


def test_all_pythons_of_the_package_are_offered():
    assert set(wheelhouse.PYTHONS) == set(
        re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text("utf-8"))
    )


def test_wheels_for_another_python_are_refused_before_anything_is_made(tmp_path):
    (tmp_path / "python").write_text("2.7\n")
    script = tmp_path / "install-offline.sh"
    script.write_bytes((ROOT / "deployments" / "wheelhouse" / script.name).read_bytes())
    done = subprocess.run(
        ["sh", script, tmp_path / "to" / "venv"], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 1
    assert "these wheels are for Python 2.7" in done.stderr
    assert not (tmp_path / "to").exists()
