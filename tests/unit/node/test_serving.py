"""What a node reads for others from its disk: the layout of a repository and nothing beside it."""

from __future__ import annotations

import os

import msgspec
import pytest

from collab.errors import InputError, NotLoaded, StoreError
from collab.node.serving import MAX_FOLDERS, ReleaseFiles, ServeConfig, served
from collab.updates.fetch.base import MAX_METADATA_BYTES


@pytest.fixture
def files(tmp_path):
    root = tmp_path / "repository"
    for folder in ("metadata", "targets/digits", "staged"):
        (root / folder).mkdir(parents=True)
    (root / "metadata/1.root.json").write_bytes(b"root")
    (root / "staged/root.json").write_bytes(b"staged")
    (root / "targets/digits/x").write_bytes(b"0123456789")
    (tmp_path / "secret").write_bytes(b"secret")
    return ReleaseFiles(ServeConfig({"main": root}))


def test_parts_are_read_at_any_place(files):
    assert files.read("main", "targets/digits/x", 3, 4) == (10, b"3456")
    assert files.read("main", "targets/digits/x", 10, 4) == (10, b"")
    assert files.read("main", "targets/digits/x", 1 << 63, 4) == (10, b"")
    assert files.metadata("main", "metadata/1.root.json") == b"root"


@pytest.mark.parametrize(
    "path",
    [
        "staged/root.json",
        "metadata/deep/root.json",
        "metadata/root.txt",
        "metadata",
        "targets",
        "targets/digits/x.part",
        "lock",
    ],
)
def test_what_is_no_part_of_the_layout_is_not_served(files, path):
    with pytest.raises(NotLoaded, match="no metadata and no target"):
        files.read("main", path, 0, 9)


@pytest.mark.parametrize("path", ["", "/", "../secret", "targets/../../secret", "targets//x", "a\\b", "a\0b"])
def test_what_could_lead_out_is_refused(path):
    with pytest.raises(InputError, match="no path within"):
        served(path)


def test_links_devices_and_folders_are_not_followed(files, tmp_path):
    targets = tmp_path / "repository/targets"
    (targets / "link").symlink_to(tmp_path / "secret")
    (targets / "folder").symlink_to(tmp_path)
    os.mkfifo(targets / "pipe")
    for path in ("targets/link", "targets/folder/secret", "targets/pipe", "targets/digits", "targets/no"):
        with pytest.raises(NotLoaded, match="has no such file"):
            files.read("main", path, 0, 9)


def test_a_repository_itself_may_be_a_link(tmp_path, files):
    (tmp_path / "current").symlink_to(tmp_path / "repository")
    linked = ReleaseFiles(ServeConfig({"main": tmp_path / "current"}))
    assert linked.read("main", "targets/digits/x", 0, 1) == (10, b"0")


def test_an_unknown_repository_is_named_with_those_that_are_served(files):
    with pytest.raises(NotLoaded, match="'other': is not served here, but main"):
        files.read("other", "targets/digits/x", 0, 1)


def test_metadata_that_is_too_long_to_be_any_is_not_read_whole(files, tmp_path):
    with open(tmp_path / "repository/metadata/big.json", "wb") as file:
        file.truncate(MAX_METADATA_BYTES + 1)
    with pytest.raises(StoreError, match="is over"):
        files.metadata("main", "metadata/big.json")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"folders": {"../x": "/x"}}, "use 1 to 63 letters"),
        ({"nearby": ["/x"] * (MAX_FOLDERS + 1)}, f"more than {MAX_FOLDERS} folders"),
        ({"folder": {}}, "unknown field"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, text):
    from pathlib import Path

    with pytest.raises(msgspec.ValidationError, match=text):
        msgspec.convert(settings, ServeConfig, dec_hook=lambda kind, value: Path(value))
