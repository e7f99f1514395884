"""Typed: what a request to a model's own service costs beside the same rows by ModelInfer.

A server, with all its processes, has one core, h2load another. The forms of a request take turns on
one server; figures are medians over several turns, and ratios are medians of each turn's own.
`late` is a model that was loaded after the start, whose typed methods go through the server behind
the native listener.
"""

import argparse
import json
import statistics
from dataclasses import dataclass

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

import h2load
import models
import report
import servers
from headrace.typed import service_name
from headrace_client import Client

IN_FLIGHT = 32
# Of 1000 rows each: more would exceed queue_rows_max.
IN_FLIGHT_MANY = 8
SECONDS = 1.0
COLUMNS_OF_1000 = 1000


@dataclass(frozen=True)
class Form:
    """One way to ask.

    Attributes:
        name: As it is printed and stored.
        path: The method.
        payload: The message.
        answer_bytes: Length of its answer.
    """

    name: str
    path: str
    payload: bytes
    answer_bytes: int


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3, help="turns per figure (default 3)")
    arguments = parser.parse_args()
    h2load.require()
    server_core, load_core = servers.cores()
    store = models.prepare()
    result = {}
    for transport in ("native", "grpcio"):
        with servers.daemon(
            server_core,
            store.tracking_uri,
            ["models:/iris@champion"],
            transport,
            # The store of the benchmarks stays as it is.
            ["server.typed_tags=false"],
        ) as server:
            forms = _forms(server, is_native=transport == "native")
            result[transport] = _measured(server, forms, arguments.turns, load_core)
    for transport, figures in result.items():
        for name, figure in figures.items():
            print(f"{transport:7} {name:22}", json.dumps(figure))
    if report.is_whole(parser, arguments):
        report.store(__file__, result)


def _forms(server: servers.Server, *, is_native: bool) -> list[Form]:
    forms = []
    row = models.iris_row()
    many = {name: column.repeat(COLUMNS_OF_1000) for name, column in row.items()}
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:

        def add(name: str, path: str, payload: bytes) -> None:
            answer: bytes = channel.unary_unary(path)(payload, timeout=60)
            forms.append(Form(name, path, payload, len(answer)))

        add("ModelInfer", servers.INFER, servers.body("iris", row))
        add("Predict", *_typed(channel, "iris", "Predict", row))
        add("PredictRow", *_typed(channel, "iris", "PredictRow", row))
        add("ModelInfer 1000 rows", servers.INFER, servers.body("iris", many))
        add("Predict 1000 rows", *_typed(channel, "iris", "Predict", many))
        if is_native:
            with Client(f"127.0.0.1:{server.port}", timeout_s=600) as client:
                client.load("late", "models:/iris@champion")
            add("late PredictRow", *_typed(channel, "late", "PredictRow", row))
    return forms


def _typed(
    channel: grpc.Channel, model: str, method: str, columns: dict[str, object]
) -> tuple[str, bytes]:
    """The path and the message of a typed request."""
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    found = pool.FindServiceByName(service_name(model)).methods_by_name[method]
    message = GetMessageClass(found.input_type)()
    fields = {field.json_name: field.name for field in message.DESCRIPTOR.fields}
    for name, column in columns.items():
        if method == "PredictRow":
            setattr(message, fields[name], column[0])
        else:
            getattr(message, fields[name]).extend(column)
    return f"/{service_name(model)}/{method}", message.SerializeToString()


def _measured(
    server: servers.Server, forms: list[Form], turns: int, core: int
) -> dict[str, dict[str, float]]:
    taken: dict[str, list[dict[str, float]]] = {form.name: [] for form in forms}
    for _ in range(turns):
        for form in forms:
            taken[form.name].append(_turn(server, form, core))
    control = {
        form.name: "ModelInfer 1000 rows" if "1000" in form.name else "ModelInfer" for form in forms
    }
    return {
        name: {
            "cpu_us": round(statistics.median(turn["cpu_us"] for turn in each), 1),
            "requests_per_s": round(statistics.median(turn["rate"] for turn in each)),
            "cpu_ratio": round(
                statistics.median(
                    turn["cpu_us"] / other["cpu_us"]
                    for turn, other in zip(each, taken[control[name]], strict=True)
                ),
                2,
            ),
        }
        for name, each in taken.items()
    }


def _turn(server: servers.Server, form: Form, core: int) -> dict[str, float]:
    requests = 200
    # As many as take long enough, which a short run tells.
    probe = _load(server, form, requests, core)
    requests = max(int(probe.requests_per_s * SECONDS), requests)
    before = server.cpu_s()
    load = _load(server, form, requests, core)
    return {
        "cpu_us": (server.cpu_s() - before) / requests * 1e6,
        "rate": load.requests_per_s,
    }


def _load(server: servers.Server, form: Form, requests: int, core: int) -> h2load.Load:
    return h2load.run(
        server.port,
        form.payload,
        form.answer_bytes,
        in_flight=IN_FLIGHT_MANY if "1000" in form.name else IN_FLIGHT,
        requests=requests,
        core=core,
        path=form.path,
    )


if __name__ == "__main__":
    main()
