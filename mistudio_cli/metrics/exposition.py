"""A snapshot as Prometheus reads it: its text format, or OpenMetrics for whoever accepts that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.exposition import generate_latest as text
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from mistudio_cli.metrics.families import FAMILIES, Family
from mistudio_cli.metrics.values import Value, values_of
from mistudio_cli.monitor.snapshot import Snapshot
from tasks.ledger.totals import Distribution

_OPENMETRICS = "application/openmetrics-text"


def exposition(snapshot: Snapshot, accept: str | None = None) -> tuple[bytes, str]:
    """The metrics of a snapshot and their content type, by the `Accept` of the request."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_OfSnapshot(snapshot))
    if _accepts_openmetrics(accept or ""):
        return openmetrics(registry), CONTENT_TYPE_LATEST
    return text(registry), CONTENT_TYPE_PLAIN_0_0_4


class _OfSnapshot(Collector):
    """The families of which there are values, in the order of the table."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Nothing: it is the registry's only collector."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Each family with its values."""
        by_family: dict[str, list[Value]] = {}
        for value in values_of(self._snapshot):
            by_family.setdefault(value.family, []).append(value)
        for family in FAMILIES:
            if found := by_family.get(family.name):
                yield _metric(family, found)


def _metric(family: Family, values: Iterable[Value]) -> Metric:
    if family.type == "histogram":
        histogram = HistogramMetricFamily(family.full_name, family.help, labels=family.labels, unit=family.suffix)
        for _, labels, value in values:
            assert isinstance(value, Distribution)
            buckets = [(floatToGoString(bound), float(count)) for bound, count in value.counts]
            histogram.add_metric(labels, buckets, value.sum)
        return histogram
    made = CounterMetricFamily if family.type == "counter" else GaugeMetricFamily
    metric = made(family.full_name, family.help, labels=family.labels, unit=family.suffix)
    for _, labels, value in values:
        assert not isinstance(value, Distribution)
        metric.add_metric(labels, value)
    return metric


def _accepts_openmetrics(accept: str) -> bool:
    for accepted in accept.split(","):
        kind, *parameters = (word.strip().lower() for word in accepted.split(";"))
        if kind == _OPENMETRICS and not any(word.replace(" ", "") in ("q=0", "q=0.0", "q=0.00") for word in parameters):
            return True
    return False
