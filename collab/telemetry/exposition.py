"""Metrics as the text that Prometheus reads; the extra ``metrics`` writes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from collab.errors import ConfigError
from collab.telemetry.catalogue import Kind, Metric, Value, by_metric
from collab.telemetry.histogram import BOUNDS_US, Counts

if TYPE_CHECKING:
    import prometheus_client.core as prometheus


class Page(NamedTuple):
    """A reply to a scrape."""

    content_type: str
    body: bytes


def require() -> None:
    """Raise `ConfigError` where what writes the text is not installed."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "--metrics: the module prometheus_client is missing: pip install 'collab[metrics]'"
        ) from error


def render(values: Iterable[Value], accept: str = "") -> Page:
    """The values in the format that a scraper's ``Accept`` header asks for.

    It takes milliseconds: run it off an event loop.  Raises `ConfigError` without the extra.
    """
    require()
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Taken(by_metric(values)))
    encode, content_type = choose_encoder(accept)
    return Page(content_type, encode(registry))


class _Taken:
    """A collector of values that were taken before."""

    def __init__(self, taken: dict[Metric, list[Value]]) -> None:
        self._taken = taken

    def collect(self) -> Iterator[prometheus.Metric]:
        for metric, series in self._taken.items():
            yield _family(metric, series)


def _family(metric: Metric, series: Sequence[Value]) -> prometheus.Metric:
    import prometheus_client.core as prometheus

    about = (metric.text, metric.labels)
    if metric.kind is Kind.HISTOGRAM:
        histogram = prometheus.HistogramMetricFamily(metric.name, metric.text, labels=metric.labels)
        for _, labels, value in series:
            assert isinstance(value, Counts)
            histogram.add_metric(labels, buckets=_cumulative(value), sum_value=value.total_us / 1e6)
        return histogram
    if metric.kind is Kind.INFO:
        info = prometheus.InfoMetricFamily(metric.name.removesuffix("_info"), metric.text)
        for _, labels, _ in series:
            info.add_metric((), dict(zip(metric.labels, labels, strict=True)))
        return info
    family: prometheus.CounterMetricFamily | prometheus.GaugeMetricFamily
    if metric.kind is Kind.COUNTER:
        family = prometheus.CounterMetricFamily(metric.name, about[0], labels=about[1])
    else:
        family = prometheus.GaugeMetricFamily(metric.name, about[0], labels=about[1])
    for _, labels, value in series:
        assert not isinstance(value, Counts)
        family.add_metric(labels, value)
    return family


def _cumulative(counts: Counts) -> list[tuple[str, float]]:
    bounds = [*(f"{bound_us / 1e6:g}" for bound_us in BOUNDS_US), "+Inf"]
    return [(bound, float(total)) for bound, total in zip(bounds, accumulate(counts.buckets), strict=True)]
