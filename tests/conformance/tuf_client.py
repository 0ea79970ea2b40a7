"""Entry point for the conformance suite of The Update Framework: its commands over our client."""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

from collab.errors import CollabError, InputError
from collab.updates.fetch.download import Downloads
from collab.updates.fetch.http import HttpSource
from collab.updates.fetch.trusted import Trusted


def trusted(arguments: argparse.Namespace) -> Trusted:
    source = HttpSource(arguments.metadata_url)
    return Trusted(arguments.metadata_dir, source, None, now())


def now() -> datetime:
    """The time that the suite pretends it is, or that it is."""
    told = os.environ.get("COLLAB_CONFORMANCE_NOW")
    time = datetime.now(timezone.utc) if told is None else datetime.fromisoformat(told)
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


def download(arguments: argparse.Namespace) -> None:
    metadata = trusted(arguments)
    metadata.refresh()
    files = HttpSource(arguments.target_base_url)
    # Beside the folder, in which the suite looks for what was downloaded.
    downloads = Downloads(arguments.target_dir.parent / "partial")
    for name in arguments.target_name:
        target = metadata.target(name)
        if target is None:
            raise InputError(f"{name}: nobody has signed it")
        place = arguments.target_dir / quote(name, "")
        algorithm, digest = next(iter(target.hashes.items()))
        if place.exists() and hashlib.new(algorithm, place.read_bytes()).hexdigest() == digest:
            continue
        opened = functools.partial(files.open, metadata.path_of(target))
        got = downloads.fetch(digest, target.length, opened, algorithm)
        got.replace(place)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--metadata-url")
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--target-name", action="append")
    parser.add_argument("--target-dir", type=Path)
    parser.add_argument("--target-base-url")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("trusted_root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    arguments = parser.parse_args()
    try:
        if arguments.command == "init":
            arguments.metadata_dir.mkdir(parents=True, exist_ok=True)
            (arguments.metadata_dir / "root.json").write_bytes(arguments.trusted_root.read_bytes())
        elif arguments.command == "refresh":
            trusted(arguments).refresh()
        else:
            download(arguments)
    except CollabError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
