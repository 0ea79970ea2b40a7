"""Idle and connected."""

from __future__ import annotations

from collab.emulation.models.radio import Radio


def test_the_first_packet_and_those_that_come_meanwhile_wait_for_the_promotion():
    radio = Radio(300.0, 10_000.0)
    assert radio.ready(0.0) == 300.0
    assert radio.ready(100.0) == 300.0
    assert radio.ready(301.0) == 301.0


def test_it_stays_connected_while_packets_are_sent_and_sleeps_after_silence():
    radio = Radio(300.0, 10_000.0)
    radio.ready(0.0)
    radio.busy(5_000.0)
    assert radio.ready(15_000.0) == 15_000.0
    assert radio.ready(25_001.0) == 25_301.0


def test_a_radio_may_begin_connected():
    assert Radio(300.0, 10_000.0, active_us=0.0).ready(9_999.0) == 9_999.0
