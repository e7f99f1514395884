"""Metrics: the daemon's numbers as Prometheus reads them.

Nothing is computed before a scrape asks; the core writes plain numbers (see instrument.py).
"""

import resource
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from .gpus.nvml import Gpus
from .instances.group import Slot
from .instances.pool import WorkerPool
from .instrument import Histogram
from .repository.model import ModelVersion
from .repository.repository import Repository
from .scheduler.scheduler import Scheduler

_LABELS = ("model", "version")

_HISTOGRAMS = (
    ("headrace_request_seconds", "From a request's arrival to its answer.", "request_s"),
    ("headrace_decode_seconds", "From a burst's arrival to the queue, per burst.", "decode_s"),
    ("headrace_queue_seconds", "From a request's arrival to the close of its batch.", "queue_s"),
    ("headrace_batch_seconds", "From the close of a batch to its answers.", "batch_s"),
    ("headrace_gather_seconds", "Writing a batch's rows into the arena.", "gather_s"),
    ("headrace_send_seconds", "A batch's way to its worker.", "send_s"),
    ("headrace_stage_seconds", "From there to the device, waiting included.", "stage_s"),
    ("headrace_compute_seconds", "The framework's own call, per batch.", "compute_s"),
    ("headrace_finish_seconds", "Writing a batch's outputs into the arena.", "finish_s"),
    ("headrace_return_seconds", "A batch's way back to the daemon.", "return_s"),
    ("headrace_answer_seconds", "From there until all its answers are sent.", "answer_s"),
    ("headrace_batch_rows", "Rows per batch.", "batch_rows"),
)

_COUNTERS = (
    ("headrace_requests", "Requests answered.", "requests"),
    ("headrace_rows", "Rows run.", "rows"),
    ("headrace_rows_padded", "Padding rows run to reach an allowed size.", "rows_padded"),
    ("headrace_batches", "Batches run.", "batches"),
    ("headrace_batches_retried", "Batches run again after a worker was lost.", "retried"),
    (
        "headrace_batches_taken_apart",
        "Batches run again in pieces after they failed.",
        "taken_apart",
    ),
    ("headrace_outputs_overflowed", "Batches whose outputs exceeded their slot.", "overflows"),
)

# Of a GPU; what the driver does not tell of one is left out.
_GPU_GAUGES = (
    ("headrace_gpu_busy_ratio", "Share of the last moment in which a kernel ran.", "busy"),
    ("headrace_gpu_memory_used_bytes", "Memory that all processes have.", "used_bytes"),
    ("headrace_gpu_memory_free_bytes", "Memory that no process has.", "free_bytes"),
    ("headrace_gpu_power_watts", "Power drawn.", "watts"),
    ("headrace_gpu_temperature_celsius", "Temperature of the chip.", "celsius"),
)

Served = tuple[ModelVersion, Scheduler[Slot]]


class Metrics(Collector):
    """The collector, and the endpoint that serves it."""

    def __init__(self, repository: Repository, pool: WorkerPool, gpus: Gpus) -> None:
        self._repository = repository
        self._pool = pool
        self._gpus = gpus
        # Failures of requests that named no model we serve, or could not be read at all.
        self._refused: defaultdict[str, int] = defaultdict(int)
        self._lock = threading.Lock()
        self._server: WSGIServer | None = None

    def refuse(self, reason: str) -> None:
        """Count a request that failed before it reached a queue."""
        with self._lock:
            self._refused[reason] += 1

    def start(self, host: str, port: int) -> int:
        """Serve /metrics; the port.

        Raises:
            OSError: The address cannot be bound.
        """
        registry = CollectorRegistry()
        registry.register(self)
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self._server, thread = start_http_server(port, host, registry)
        thread.name = "metrics"
        bound: int = self._server.server_port
        return bound

    def close(self) -> None:
        """Close the endpoint."""
        if self._server is not None:
            # Wakes its thread, which would look up from its listener only twice a second.
            self._server.socket.shutdown(socket.SHUT_RDWR)
            self._server.shutdown()
            self._server.server_close()

    def collect(self) -> Iterator[Metric]:
        """Everything, as it is now."""
        # A label once: files of a directory that are loaded anew have the version they had, and for
        # a while both are there.
        found = {_labels(model): (model, model.queue) for model in self._repository.models[::-1]}
        models = [(model, queue) for model, queue in found.values() if queue is not None]
        for name, text, field in _HISTOGRAMS:
            family = HistogramMetricFamily(name, text, labels=_LABELS)
            for model, queue in models:
                histogram: Histogram = getattr(queue.instrument, field)
                family.add_metric(_labels(model), _buckets(histogram), histogram.total)
            yield family
        for name, text, field in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=_LABELS)
            for model, queue in models:
                counter.add_metric(_labels(model), getattr(queue.instrument, field))
            yield counter
        yield self._failures(models)
        yield from self._gauges(models)
        yield from self._memory(models)
        yield from self._gpu_gauges()

    def _failures(self, models: list[Served]) -> Metric:
        family = CounterMetricFamily(
            "headrace_requests_failed", "Requests ended by an error.", labels=(*_LABELS, "reason")
        )
        for model, queue in models:
            for reason, count in dict(queue.instrument.failed).items():
                family.add_metric((*_labels(model), reason), count)
        for reason, count in dict(self._refused).items():
            family.add_metric(("", "", reason), count)
        return family

    def _gauges(self, models: list[Served]) -> Iterator[Metric]:
        rows = GaugeMetricFamily("headrace_queue_rows", "Rows that wait.", labels=_LABELS)
        nbytes = GaugeMetricFamily("headrace_queue_bytes", "Bytes that wait.", labels=_LABELS)
        flying = GaugeMetricFamily(
            "headrace_batches_in_flight", "Batches that run.", labels=_LABELS
        )
        instances = GaugeMetricFamily(
            "headrace_instances_up", "Instances that can run a batch.", labels=_LABELS
        )
        cap = GaugeMetricFamily(
            "headrace_rows_cap",
            "Rows of a batch that fit the memory; 0: no bound is known.",
            labels=_LABELS,
        )
        for model, queue in models:
            labels = _labels(model)
            cap.add_metric(labels, queue.rows_cap)
            rows.add_metric(labels, queue.queued_rows)
            nbytes.add_metric(labels, queue.queued_bytes)
            flying.add_metric(labels, queue.in_flight)
            instances.add_metric(labels, 0 if model.group is None else model.group.up_count)
        yield from (rows, nbytes, flying, instances, cap)
        arena = GaugeMetricFamily(
            "headrace_arena_bytes", "Shared memory taken by slots.", labels=("worker",)
        )
        for worker in self._pool.workers:
            arena.add_metric((worker.name,), worker.arena.used_bytes)
        yield arena
        peak = GaugeMetricFamily(
            "headrace_memory_peak_bytes", "Largest resident memory of the daemon so far."
        )
        peak.add_metric((), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        yield peak

    def _memory(self, models: list[Served]) -> Iterator[Metric]:
        host = GaugeMetricFamily(
            "headrace_model_memory_bytes",
            "By how much a worker grew when it loaded an instance.",
            labels=_LABELS,
        )
        gpu = GaugeMetricFamily(
            "headrace_model_gpu_memory_bytes",
            "What an instance is taken to need on a GPU: seen at load, or its files.",
            labels=(*_LABELS, "gpu"),
        )
        for model, _ in models:
            host.add_metric(_labels(model), model.memory_bytes)
            if (booking := model.booking) is not None:
                for device in dict.fromkeys(booking.devices):
                    gpu.add_metric((*_labels(model), device), booking.each_bytes)
        yield from (host, gpu)

    def _gpu_gauges(self) -> Iterator[Metric]:
        readings = self._gpus.read()
        for name, text, field in _GPU_GAUGES:
            family = GaugeMetricFamily(name, text, labels=("gpu", "uuid"))
            for reading in readings:
                if (value := getattr(reading, field)) is not None:
                    family.add_metric((reading.gpu.device, reading.gpu.uuid), value)
            yield family


def _labels(model: ModelVersion) -> tuple[str, str]:
    return model.name, model.version


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Prometheus' cumulative buckets."""
    total = 0
    buckets = []
    for bound, count in zip((*histogram.bounds, float("inf")), list(histogram.counts), strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), float(total)))
    return buckets
