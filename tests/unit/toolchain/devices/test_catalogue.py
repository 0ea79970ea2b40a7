"""The catalogue that ships is sound, users add to it, and what is wrong in a file is named."""

from __future__ import annotations

import pytest

from collab.errors import ConfigError, UsageError
from collab.graph.schema import operator_names
from collab.runtime.delegates import LIBRARIES, XNNPACK
from collab.toolchain.devices.catalogue import shipped, with_file

MINE = """
devices:
  my-board:
    title: My board
    kind: linux
    memory_bytes: 1000000000
    cores: 2
    delegates: [xnnpack]
    speed:
      cpu: {model: m, macs: 1000, ms: 2, source: mine}
"""


def test_the_devices_that_were_promised_are_there():
    for name in (
        "raspberry-pi-4", "raspberry-pi-5", "raspberry-pi-zero-2", "jetson-nano", "jetson-orin-nano",
        "coral-dev-board", "coral-usb", "myriad-x", "android-mid-range", "iphone", "esp32-s3", "gateway-x86",
    ):  # fmt: skip
        assert shipped().device(name).title


def test_delegates_name_operators_of_the_schema_and_libraries_that_nodes_know():
    known = set(operator_names().values())
    for delegate in shipped().delegates.values():
        assert set(delegate.operators) <= known
        assert delegate.library in (None, XNNPACK, *LIBRARIES)


def test_every_time_has_a_source():
    for device in shipped().devices.values():
        assert all(speed.source and speed.macs_per_ms > 0 for speed in device.speed.values())


def test_the_myriad_x_names_the_last_version_that_ran_on_it():
    assert "2022.3" in str(shipped().device("myriad-x").unsupported)


def test_an_unknown_device_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean raspberry-pi-4"):
        shipped().device("raspbery-pi-4")
    with pytest.raises(UsageError, match="there is raspberry-pi-4"):
        shipped().device("zzzz")


def test_users_add_devices_of_their_own(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(MINE)
    known = with_file(shipped(), file)
    assert known.device("my-board").speed["cpu"].macs_per_ms == 500
    assert known.device("iphone") == shipped().device("iphone")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cores: 2", "cores: 0", r"`int` >= 1 - at `\$\.devices\[\.\.\.\]\.cores`"),
        ("cores: 2", "cores: 2\n    colour: red", "unknown field `colour`"),
        ("[xnnpack]", "[abacus]", "devices.my-board.delegates: 'abacus' is not described"),
        ("cpu:", "gpu:", "devices.my-board.speed: has no cpu"),
        ("title: My board", "title: [", "expected"),
        ("title: My board", "title: &a x\n    notes: *a", "has aliases"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, old, new, said):
    file = tmp_path / "mine.yaml"
    file.write_text(MINE.replace(old, new))
    with pytest.raises(ConfigError, match=said):
        with_file(shipped(), file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"--catalogue .*No such file"):
        with_file(shipped(), tmp_path / "no.yaml")
