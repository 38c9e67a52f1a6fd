"""Numbers for operators, in Prometheus' format on a port of their own.

What a call spent in each stage comes from the same timer as the response's ``Timing`` and the log line.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from clipseek_server.errors import StartupError
from clipseek_server.telemetry import Call

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

CALLS = Counter("clipseek_calls", "Calls that ended, by method and status.", ("method", "code"))
CALL_SECONDS = Histogram("clipseek_call_seconds", "From arrival to the end.", ("method",), buckets=_SECONDS)
STAGE_SECONDS = Histogram(
    "clipseek_stage_seconds",
    "Of each call or stream, those in which at least one of its items was in the stage.",
    ("stage",),
    buckets=_SECONDS,
)
REQUEST_BYTES = Counter("clipseek_request_bytes", "Bytes of messages read.", ("method",))

QUEUE_LENGTH = Gauge("clipseek_queue_length", "Items that wait.", ("queue",))
QUEUE_SECONDS = Histogram("clipseek_queue_seconds", "That items waited.", ("queue",), buckets=_SECONDS)
BATCH_ITEMS = Histogram("clipseek_batch_items", "Items that ran together.", ("queue",), buckets=_ITEMS)
BATCH_SECONDS = Histogram("clipseek_batch_seconds", "That they ran.", ("queue",), buckets=_SECONDS)

TEXT_CACHE = Counter("clipseek_text_cache_lookups", "Texts looked for among those embedded last.", ("model", "found"))
PROVIDERS = Gauge(
    "clipseek_providers",
    "1 for what each session really got; rank 0 is the best.",
    ("model", "tower", "provider", "rank"),
)


def call_ended(method: str, code: str, call: Call, request_bytes: int) -> None:
    """Count a call."""
    CALLS.labels(method, code).inc()
    CALL_SECONDS.labels(method).observe(call.elapsed)
    REQUEST_BYTES.labels(method).inc(request_bytes)
    for stage, seconds in call.seconds.items():
        STAGE_SECONDS.labels(stage).observe(seconds)


@contextmanager
def endpoint(listen: str) -> Iterator[int]:
    """Answer Prometheus on HOST:PORT while the block runs; yields the port.

    Raises:
        StartupError: The address cannot be listened on.
    """
    host, _, port = listen.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"))
    except OSError as error:
        raise StartupError(
            f"cannot listen on {listen} for metrics: {error.strerror}; choose another address with --metrics-listen"
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
