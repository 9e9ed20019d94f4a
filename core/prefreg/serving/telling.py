"""What the server counts, for Prometheus."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from prefreg.serving.asking import Counts

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """Counts the requests of one server, and reads what its live model counts."""

    def __init__(self, state: Callable[[], Counts]) -> None:
        """Begin at 0."""
        self._registry = CollectorRegistry()
        self._state = state
        self._seconds = Histogram(
            "prefreg_request_seconds",
            "Seconds from a request to the end of its answer.",
            ["route", "status"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._first = Histogram(
            "prefreg_first_token_seconds",
            "Seconds from a request to the first piece of its answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._registry.register(_OfModel(state))

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that has ended; status 0 where its client left before an answer."""
        self._seconds.labels(route, str(status)).observe(seconds)

    def first_token(self, seconds: float) -> None:
        """Take note of how long an answer took to begin."""
        self._first.observe(seconds)

    def text(self) -> bytes:
        """Write everything as Prometheus reads it."""
        return generate_latest(self._registry)


class _OfModel:
    """Reads the counts of a live model when Prometheus asks."""

    def __init__(self, state: Callable[[], Counts]) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Return the counts as they are now."""
        now = self._state()
        yield GaugeMetricFamily(
            "prefreg_answers_waiting", "Answers that wait for their turn.", now.waiting
        )
        yield GaugeMetricFamily(
            "prefreg_answers_running", "Answers that are being made.", now.running
        )
        ended = CounterMetricFamily(
            "prefreg_answers", "Answers that have ended, by how.", labels=["how"]
        )
        for how, count in (
            ("finished", now.finished),
            ("cancelled", now.cancelled),
            ("failed", now.failed),
        ):
            ended.add_metric([how], count)
        yield ended
        yield CounterMetricFamily(
            "prefreg_prompt_tokens", "Tokens of prompts that were read.", now.prompt_tokens
        )
        yield CounterMetricFamily(
            "prefreg_answer_tokens", "Tokens of answers that were made.", now.tokens
        )
        yield CounterMetricFamily(
            "prefreg_weight_switches",
            "How often the weights were composed anew for another setting.",
            now.switches,
        )
