"""Names of codecs: a base, a packer behind it, and short forms."""

from __future__ import annotations

import pytest

from collab.core.codecs import NAMES, parse_codec
from collab.errors import PlanError


def test_every_base_stands_alone_and_before_every_packer():
    assert (
        *("raw", "raw+lz4", "raw+zstd"),
        *("fp16", "fp16+lz4", "fp16+zstd"),
        *("int8", "int8+lz4", "int8+zstd"),
        *("int8c", "int8c+lz4", "int8c+zstd"),
    ) == NAMES
    assert [str(parse_codec(name)) for name in NAMES] == list(NAMES)


@pytest.mark.parametrize(("short", "full"), [("lz4", "raw+lz4"), ("zstd", "raw+zstd"), ("", "raw")])
def test_short_forms_stand_for_full_ones(short: str, full: str):
    assert str(parse_codec(short)) == full


def test_only_what_keeps_elements_as_they_are_is_exact():
    assert [name for name in NAMES if parse_codec(name).exact] == ["raw", "raw+lz4", "raw+zstd"]
    assert {str(parse_codec(name).without_loss) for name in NAMES} == {"raw", "raw+lz4", "raw+zstd"}


@pytest.mark.parametrize(
    "name", ["zip", "RAW", "int8+", "+zstd", "int8+zip", "zstd+int8", "raw+zstd+lz4", " raw", "x" * 500]
)
def test_other_names_are_plan_errors_that_list_those_known(name: str):
    with pytest.raises(PlanError, match=r"is not known here; use one of raw, raw\+lz4") as caught:
        parse_codec(name)
    assert len(str(caught.value)) < 300
