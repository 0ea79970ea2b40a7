"""The text that Prometheus reads, read back by its own parser."""

from __future__ import annotations

import os
import re
import sys

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain

from collab.errors import ConfigError
from collab.telemetry import catalogue
from collab.telemetry.catalogue import CATALOGUE, Kind, Value
from collab.telemetry.exposition import render
from collab.telemetry.histogram import Histogram
from collab.telemetry.process import process_values


def one_of_each() -> list[Value]:
    histogram = Histogram()
    for duration_us in (50, 700, 99_000_000):
        histogram.observe(duration_us)
    odd = 'a"b\\c\nd'
    return [
        metric.at(
            *(odd for _ in metric.labels), value=histogram.counts if metric.kind is Kind.HISTOGRAM else 3
        )
        for metric in CATALOGUE
    ]


@pytest.mark.parametrize(
    ("accept", "parse"), [("", plain), ("application/openmetrics-text; version=1.0.0", open_metrics)]
)
def test_every_metric_is_read_back_with_its_type_and_labels(accept, parse):
    page = render(one_of_each(), accept)
    assert page.content_type.startswith("application/openmetrics-text" if accept else "text/plain")
    families = {family.name: family for family in parse(page.body.decode())}
    for metric in CATALOGUE:
        name = metric.name if parse is plain else metric.name.removesuffix("_total").removesuffix("_info")
        family = families.get(name) or families[metric.name.removesuffix("_total")]
        samples = [s for s in family.samples if s.name == metric.name or metric.kind is Kind.HISTOGRAM]
        assert samples, metric.name
        assert set(samples[0].labels) - {"le"} == set(metric.labels)
        assert all(v == 'a"b\\c\nd' for k, v in samples[0].labels.items() if k != "le")


def test_buckets_are_cumulative_and_in_seconds():
    body = render(one_of_each()).body.decode()
    series = re.findall(r"^collab_request_seconds_bucket\{le=\"(.+?)\",.*\} (.+)$", body, re.MULTILINE)
    found = {bound: float(count) for bound, count in series}
    assert (found["0.0001"], found["0.0005"], found["0.001"], found["10"], found["+Inf"]) == (1, 1, 2, 2, 3)
    assert re.search(r"^collab_request_seconds_count\{.*\} 3\.0$", body, re.MULTILINE)
    assert re.search(r"^collab_request_seconds_sum\{.*\} 99\.00075$", body, re.MULTILINE)


def test_names_keep_prometheus_conventions():
    names = [metric.name for metric in CATALOGUE]
    assert len(set(names)) == len(names)
    for metric in CATALOGUE:
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert metric.name.endswith("_info") == (metric.kind is Kind.INFO), metric.name
        assert not re.search(r"_(ms|us|milliseconds|mb|kib|percent)(_|$)", metric.name)
        assert metric.kind is not Kind.HISTOGRAM or metric.name.endswith("_seconds")


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match=r"pip install 'collab\[metrics\]'"):
        render([])


def test_sensors_are_read_and_those_that_are_off_left_out(tmp_path):
    for number, text in ((0, "48250\n"), (1, None)):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "type").write_text("cpu-thermal\n")
        if text:
            (zone / "temp").write_text(text)
    statm = tmp_path / "statm"
    statm.write_text("100 7 1 1 0 1 0\n")
    found = {value.metric: value for value in process_values(tmp_path, statm)}
    assert found[catalogue.TEMPERATURE].labels == ("0:cpu-thermal",)
    assert found[catalogue.TEMPERATURE].value == 48.25
    assert found[catalogue.MEMORY].value == 7 * os.sysconf("SC_PAGE_SIZE")
    assert catalogue.MEMORY not in {v.metric for v in process_values(tmp_path, tmp_path / "none")}
