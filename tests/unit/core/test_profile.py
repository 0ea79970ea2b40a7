"""Link profiles are plain frozen numbers."""

from __future__ import annotations

import msgspec
import pytest

from collab.core.profile import LinkProfile


def test_a_profile_reads_from_json_and_knows_no_other_field():
    assert msgspec.json.decode(b'{"latency_ms": 2, "mbit_s": 90.5}', type=LinkProfile) == LinkProfile(
        2.0, 90.5
    )
    with pytest.raises(msgspec.ValidationError, match="unknown field `loss`"):
        msgspec.json.decode(b'{"latency_ms": 2, "mbit_s": 90.5, "loss": 0}', type=LinkProfile)
