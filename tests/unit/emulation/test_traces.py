"""Users' files of rates over time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.emulation import traces
from collab.emulation.build import build_link
from collab.emulation.profile import from_mapping
from collab.emulation.traces import Opportunities, RateTrace, read_trace
from collab.errors import InputError

IRISH = "Timestamp,Longitude,Latitude,Speed,Operatorname,CellID,NetworkMode,DL_bitrate,UL_bitrate,State\n"


def read(text: str, **more):
    return read_trace(text.encode(), "my.txt", **more)


@pytest.mark.parametrize(
    "text",
    [
        "0 10\n1 20\n2.5 0\n",
        "0,10\r\n1,20\r\n2.5,0",
        "0\t10\n1\t20\n2.5\t0\n",
        "# from a drive\nseconds,mbit_s\n\n0, 10\n1, 20  \n2.5, 0\n",
        "Time (s),Rate (Mbit/s)\n0,10\n1,20\n2.5,0\n",
        "\ufefftime rate\n0;10\n1;20\n2.5;0\n",
    ],
)
def test_two_columns_are_read_whatever_parts_them(text):
    assert read(text) == RateTrace((0.0, 1.0, 2.5), (10.0, 20.0, 0.0))


def test_mahimahi_files_are_one_time_a_line():
    assert read("0\n0\n3\n10\n") == Opportunities((0, 0, 3, 10))


def test_the_irish_data_set_has_kbit_s_and_several_rows_in_a_second():
    text = IRISH + (
        "2019.12.16_13.40.04,-8.3,51.8,0,B,11,5G,1000,50,D\n"
        "2019.12.16_13.40.05,-8.3,51.8,0,B,11,5G,2000,70,D\n"
        "2019.12.16_13.40.05,-8.3,51.8,0,B,11,5G,4000,90,D\n"
        '2019.12.16_13.40.08,-8.3,51.8,0,"B, S",11,5G,0,10,D\n'
    )
    assert read(text) == RateTrace((0.0, 1.0, 4.0), (1.0, 3.0, 0.0))
    assert read(text, direction="up") == RateTrace((0.0, 1.0, 4.0), (0.05, pytest.approx(0.08), 0.01))


def test_lumos5g_has_mbit_s_and_runs_that_are_put_one_after_another():
    text = (
        "run_num,seq_num,abstractSignalStr,nrStatus,Throughput,mobility_mode\n"
        "1,1,2,CONNECTED,800,walking\n1,2,2,CONNECTED,900,walking\n2,1,2,NONE,30,driving\n2,3,2,NONE,40,driving\n"
    )
    assert read(text) == RateTrace((0.0, 1.0, 2.0, 4.0), (800.0, 900.0, 30.0, 40.0))
    with pytest.raises(InputError, match=r"my.txt:1: no column with rates up; name one of: ul_bitrate"):
        read(text, direction="up")


def test_a_csv_without_times_has_a_row_a_second():
    assert read("a,b,Throughput\n1,2,30\n1,2,40\n") == RateTrace((0.0, 1.0), (30.0, 40.0))
    assert read("Throughput\n30\n40\n") == RateTrace((0.0, 1.0), (30.0, 40.0))


def test_the_format_may_be_named():
    with pytest.raises(InputError, match=r"my.txt:1: 1 columns"):
        read("5\n6\n", kind="columns")
    assert read("1\n2\n", kind="mahimahi") == Opportunities((1, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 10\n1 x\n", "my.txt:2: the rate is 'x'; give a number from 0"),
        ("0 10\n1 -3\n", "my.txt:2: the rate is '-3'"),
        ("0 10\n1 nan\n", "my.txt:2: the rate is 'nan'"),
        ("0 10\n# a\n\n1 inf\n", "my.txt:4: the rate is 'inf'"),
        ("0 10\nx 3\n", "my.txt:2: the time is 'x'"),
        ("0 10\n2 3\n1 3\n", "my.txt:3: 1 s after 2 s; sort"),
        ("0 10\n1 2 3\n", "my.txt:2: 3 columns; give two"),
        ("0 10\n1\n", "my.txt:2: 1 columns; give two"),
        ("0 0\n1 0\n", "my.txt: no rate is above 0"),
        ("seconds mbit\n", "my.txt: no rate is above 0"),
        ("", "my.txt: there is no line with a value"),
        ("# nothing\n\n", "my.txt: there is no line with a value"),
        ("1\n2.5\n", "my.txt:2: '2.5' is not a time in whole ms"),
        ("1\n-2\n", "my.txt:2: '-2' is not a time in whole ms"),
        ("5\n4\n", "my.txt:2: 4 after 5; sort"),
        ("0\n0\n", "my.txt:2: the trace ends at 0 ms"),
        ("1\n9999999999999\n", "my.txt:2: '9999999999999' is not"),
        ("a,b,c\n1,2,3\n", "my.txt:1: no column with rates down; name one of: dl_bitrate, throughput"),
        ("a,b,Throughput\n1,2," + "9" * 140_000 + "\n", "my.txt:2: not a line of a CSV"),
        (",\n;\n", "my.txt: there is no line with a value"),
        (IRISH + "2019.12.16_13.40.04,1\n", "my.txt:2: 2 columns, the first line has 10"),
        (IRISH + "yesterday,1,2,3,B,11,5G,5,5,D\n", "my.txt:2: the time is 'yesterday'; give seconds, or"),
        (IRISH + "2019.12.16_13.40.04,1,2,3,B,11,5G,-,5,D\n", "my.txt:2: column dl_bitrate is '-'"),
    ],
)
def test_a_malformed_file_is_refused_by_file_and_line(text, message):
    with pytest.raises(InputError) as caught:
        read(text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_what_is_no_text_is_refused():
    with pytest.raises(InputError, match=r"my.txt:3: not UTF-8"):
        read_trace(b"0 1\n1 2\n\xff\xfe", "my.txt")


def test_size_and_lines_are_bounded(monkeypatch):
    monkeypatch.setattr(traces, "MAX_TRACE_BYTES", 20)
    with pytest.raises(InputError, match=r"my.txt: 21 bytes; traces may have 20"):
        read("0" * 21)
    monkeypatch.setattr(traces, "MAX_TRACE_LINES", 3)
    with pytest.raises(InputError, match=r"my.txt: 4 lines; traces may have 3"):
        read("1\n2\n3\n4\n")


@settings(max_examples=60)
@given(st.binary(max_size=80) | st.text("0123456789.,-ne \n\t#", max_size=60).map(str.encode))
def test_any_content_is_a_trace_that_can_be_used_or_an_error(data):
    caught = None
    try:
        trace = read_trace(data, "any")
    except InputError as error:
        caught = str(error)
    if caught is not None:
        assert caught.startswith("any")
        return
    link = build_link(from_mapping({"up": {"trace": "any"}}), 1, traces={"any": trace})
    assert link.up.offer(0.0, 1_500).times_us[0] >= 0


def test_a_link_follows_its_trace_from_where_it_is_told_to():
    seen = {"t": read("0 10\n10 20\n20 30\n")}
    steps = {"trace": "t", "trace_interpolate": False, "trace_offset_s": 10}
    link = build_link(from_mapping({"up": steps}), 1, traces=seen)
    assert link.up.offer(0.0, 250_000).times_us[0] == pytest.approx(1e5)
