"""Meters: what the service counts, for Prometheus.

What comes in are requests and answers; what goes out is the text of ``/metrics``. No file name, address or token is in
a label; the number of label values is bounded by routes, statuses, labels of the bundles and reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from ..classifier import Classifier, Prediction

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Meters:
    """The meters of one service, with a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "leukoscope_requests", "Requests by route and status.", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "leukoscope_request_seconds",
            "From the first byte to the last of the response.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("leukoscope_in_flight", "Requests that are not through.", registry=registry)
        self._rejected = Counter(
            "leukoscope_rejected", "Requests that hit a limit, by status.", ("status",), registry=registry
        )
        self._predictions = Counter(
            "leukoscope_predictions", "Pictures and cells by label.", ("model", "label"), registry=registry
        )
        self._abstained = Counter(
            "leukoscope_abstained", "Pictures and cells without an answer.", ("model", "reason"), registry=registry
        )
        self._infer = Histogram(
            "leukoscope_infer_seconds", "One inference.", ("model",), buckets=_SECONDS, registry=registry
        )
        self._models = Gauge(
            "leukoscope_model_info",
            "1 for each model.",
            ("model", "bundle_id", "engine", "degraded"),
            registry=registry,
        )
        self.history_failures = Counter(
            "leukoscope_history_failures", "Answers that could not be kept.", registry=registry
        )

    def models(self, models: Mapping[str, Classifier]) -> None:
        """Name the models."""
        for name, classifier in models.items():
            degraded = str(not classifier.bundle.manifest.parity_passed).lower()
            self._models.labels(name, classifier.bundle.id, classifier.engine.name, degraded).set(1)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a number that is asked for whenever somebody reads the meters."""
        Gauge(f"leukoscope_{name}", text, registry=self.registry).set_function(value)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that is through."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if status in (408, 413, 429, 504):
            self._rejected.labels(str(status)).inc()

    def prediction(self, model: str, prediction: Prediction) -> None:
        """Count a prediction: under its label, or under each reason why it is none."""
        if prediction.abstained:
            for reason in {refusal.reason for refusal in prediction.refusals}:
                self._abstained.labels(model, reason).inc()
        else:
            self._predictions.labels(model, prediction.label).inc()
        if "infer" in prediction.timings_ms:
            self._infer.labels(model).observe(prediction.timings_ms["infer"] / 1000)

    def text(self) -> bytes:
        """Return all meters as Prometheus reads them."""
        return generate_latest(self.registry)
