"""What the service tells a Prometheus server: requests, latency, and which index it answers from."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from notellm2.serving.pointer_follower import Follower

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """The metrics of one service; a registry of its own, so that two services in a process do not mix.

    Args:
        follower: tells which index is loaded.
    """

    def __init__(self, follower: Follower) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "notellm2_requests", "Requests answered.", ("route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "notellm2_request_seconds",
            "Seconds from the receipt of a request to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._registry.register(_IndexInUse(follower))
        ProcessCollector(registry=self._registry)

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)


class RequestMetrics:
    """Middleware that counts every request under its route's template, so that ids do not become label values."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count it when its answer has ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path_format", "none")
            self._metrics.observe(route, status, time.perf_counter() - started)


class _IndexInUse(Collector):
    """What is loaded, read when it is asked for."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def collect(self) -> Iterator[Metric]:
        follower, version, now = self._follower, self._follower.loaded, time.time()
        yield _gauge("notellm2_ready", "1: an index is loaded.", float(version is not None))
        yield _gauge(
            "notellm2_following", "1: the last look at the pointer found all well.", float(follower.problem is None)
        )
        yield _counter("notellm2_switches", "Indexes loaded.", follower.switches)
        yield _counter("notellm2_follow_failures", "Looks at the pointer that failed.", follower.failures)
        if follower.looked_at is not None:
            text = "Seconds since a look at the pointer last found all well."
            yield _gauge("notellm2_pointer_age_seconds", text, now - follower.looked_at)
        if version is None:
            return
        publication = version.publication
        loaded = InfoMetricFamily("notellm2_index", "The index in use.")
        names = ("model_name", "model_version", "index_key", "data_md5", "kind")
        loaded.add_metric(
            (), {"publication": publication.version, **{name: getattr(publication, name) for name in names}}
        )
        yield loaded
        yield _gauge("notellm2_index_notes", "Notes in the index in use.", len(version))
        age = "Seconds since the index in use was published."
        yield _gauge("notellm2_index_age_seconds", age, now - publication.published_at.timestamp())
        if follower.loaded_at is not None:
            yield _gauge(
                "notellm2_index_loaded_timestamp_seconds", "When the index in use was loaded.", follower.loaded_at
            )


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, value)


def _counter(name: str, about: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, about, value)
