"""What starts `collab serve` here is taken by it: off loopback it refuses to serve in the open."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from collab.errors import Refused
from collab.serving.access import Access
from collab.serving.door import DoorSettings, check_places
from collab.serving.tls import TlsFiles

FOLDER = Path(__file__).parents[3] / "deployments"


def commands() -> Iterator[tuple[str, list[str]]]:
    """Where, and the words after `collab serve`."""
    compose = yaml.safe_load((FOLDER / "container/compose.yaml").read_text("utf-8"))
    yield "compose", compose["services"]["serve"]["command"]
    for each in yaml.safe_load_all((FOLDER / "k3s/base/serve.yaml").read_text("utf-8")):
        if each["kind"] == "Deployment":
            yield "k3s", each["spec"]["template"]["spec"]["containers"][0]["args"]
    page = (FOLDER / "systemd/README.md").read_text("utf-8")
    for line in re.findall(r"^SERVE_OPTIONS=(.*)$", page, re.MULTILINE):
        yield "systemd", shlex.split(line)


FOUND = list(commands())


@pytest.mark.parametrize(("where", "words"), FOUND, ids=[where for where, _ in FOUND])
def test_a_front_door_off_loopback_is_one_that_may_be_there(where, words):
    def value(option: str) -> str | None:
        return words[words.index(option) + 1] if option in words else None

    cert, key = value("--tls-cert"), value("--tls-key")
    settings = DoorSettings(
        listen=value("--listen"),
        grpc=value("--grpc"),
        access=Access(keys=() if "--api-keys" in words else None),
        tls=TlsFiles(Path(cert), Path(key)) if cert and key else None,
        open_network="--open-network" in words,
    )
    assert settings.listen is not None
    assert "--api-keys" in words  # whoever carries the traffic, keys are asked for
    try:
        check_places(settings)
    except Refused as error:
        pytest.fail(f"{where}: {error}", pytrace=False)


def test_all_three_are_looked_at():
    assert [where for where, _ in FOUND] == ["compose", "k3s", "systemd"]
