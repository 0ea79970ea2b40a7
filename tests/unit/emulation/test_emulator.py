"""What the emulator refuses before it starts anything."""

from __future__ import annotations

import pytest

from collab.emulation.emulator import MAX_HOSTS, EmulatedNetwork
from collab.emulation.network import star
from collab.emulation.profile import from_mapping
from collab.errors import ConfigError


def test_more_hosts_than_the_emulator_takes_are_for_the_simulator():
    profile = from_mapping({})
    with pytest.raises(ConfigError, match=f"{MAX_HOSTS + 1}; the emulator takes {MAX_HOSTS}"):
        EmulatedNetwork(star({f"h{i}": profile for i in range(MAX_HOSTS + 1)}))
