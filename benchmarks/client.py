"""Client: what a call costs the process that makes it, beside a bare stub and tritonclient.

One daemon has one core, this process another. The three callers take turns on the same server;
figures are CPU time of this process per call, gRPC's own threads included: medians over several
turns, and the ratios are medians of each turn's own ratio. Every call makes its request from numpy
and reads its answer back into numpy; the bare stub sends bytes that were made before, and gets
bytes.
"""

import argparse
import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc._utils import _get_inference_request

import models
import report
import servers
from headrace_client import Client, ModelMetadata, TensorSpec
from headrace_client.calls import RequestEncoder
from headrace_client.inputs import Form

CALLERS = ("bare", "headrace", "tritonclient")
TURNS = 15
SECONDS = 0.5
STRINGS = 10_000
STRINGS_MS_MAX = 5.0
ROW_RATIO_TO_BARE_MAX = 1.4
LARGE_RATIO_TO_TRITON_MAX = 0.5
# Beside the message itself: Python's own objects, in bytes.
SMALL_OBJECTS_MAX = 8192

Call = Callable[[], Any]
Turn = dict[str, float]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=TURNS, help="turns per figure (default 15)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="length of a turn (default 0.5)"
    )
    arguments = parser.parse_args()
    figures = _calls(arguments) + _encodings(arguments)
    claims = _claims(figures)
    _print(figures, claims)
    if not report.is_whole(parser, arguments):
        return  # The stored result is always a whole one.
    result = {
        **report.made_by("make bench-client", "server on one core, this client on another"),
        "versions": {"grpcio": grpc.__version__, "tritonclient": _triton_version()},
        "turns": arguments.turns,
        "seconds": arguments.seconds,
        "figures": figures,
        "claims": claims,
    }
    report.store(__file__, result)


def _calls(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """CPU per call of each caller, for one row and for an image."""
    server_core, _ = servers.cores()
    uri = models.prepare().tracking_uri
    uris = [f"models:/{name}@champion" for name in ("iris", "image-mean")]
    figures = []
    with ExitStack() as stack:
        server = stack.enter_context(servers.daemon(server_core, uri, uris, "native"))
        address = f"127.0.0.1:{server.port}"
        client = stack.enter_context(Client(address))
        theirs = stack.enter_context(triton.InferenceServerClient(address))
        channel = stack.enter_context(grpc.insecure_channel(address))
        stub = channel.unary_unary(servers.INFER)
        for what, model, row in (
            ("one iris row", "iris", models.iris_row()),
            ("602 kB", "image-mean", models.image()),
        ):
            payload = servers.body(model, row)
            callers = {
                "bare": _bare(stub, payload),
                "headrace": _ours(client, model, row),
                "tritonclient": _theirs(theirs, model, row),
            }
            turns = _take_turns(callers, arguments)
            figures.append(_figure(f"call, {what}", "us", turns))
    return figures


def _bare(stub: Any, payload: bytes) -> Call:
    return lambda: stub(payload, timeout=60)


def _ours(client: Client, model: str, row: dict[str, np.ndarray]) -> Call:
    return lambda: client.predict(model, row).array


def _theirs(client: Any, model: str, row: dict[str, np.ndarray]) -> Call:
    output = client.get_model_metadata(model).outputs[0].name
    return lambda: client.infer(model, _triton_inputs(row), client_timeout=60).as_numpy(output)


def _encodings(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """CPU of what comes before the transport: values to the message's bytes, and the memory."""
    texts = np.array([f"customer {number}" for number in range(STRINGS)], object)
    figures = []
    for what, spec, named in (
        (f"{STRINGS} strings", TensorSpec("text", "BYTES", (-1,)), {"text": texts}),
        ("602 kB", TensorSpec("x", "FP32", (-1, *models.IMAGE)), models.image()),
    ):
        form = Form(ModelMetadata("m", ("1",), "", (spec,), ()))
        encoder = RequestEncoder()

        def ours(form: Form = form, encoder: RequestEncoder = encoder, named: Any = named) -> bytes:
            return encoder.encode("m", "", form.fill(named))

        def theirs(named: Any = named) -> bytes:
            request = _get_inference_request(
                model_name="m",
                inputs=_triton_inputs(named),
                model_version="",
                request_id="",
                outputs=None,
                sequence_id=0,
                sequence_start=False,
                sequence_end=False,
                priority=0,
                timeout=None,
                parameters=None,
            )
            message: bytes = request.SerializeToString()
            return message

        assert len(ours()) > 1000, "a message that holds its tensor"
        turns = _take_turns({"headrace": ours, "tritonclient": theirs}, arguments)
        figure = _figure(f"encode, {what}", "us", turns)
        figure["message_bytes"] = len(ours())
        figure["peak_bytes"] = {"headrace": _peak(ours), "tritonclient": _peak(theirs)}
        figures.append(figure)
    return figures


def _triton_inputs(named: dict[str, np.ndarray]) -> list[Any]:
    datatypes = {"float64": "FP64", "float32": "FP32", "object": "BYTES"}
    inputs = []
    for name, array in named.items():
        wanted = triton.InferInput(name, list(array.shape), datatypes[array.dtype.name])
        wanted.set_data_from_numpy(array)
        inputs.append(wanted)
    return inputs


def _take_turns(callers: dict[str, Call], arguments: argparse.Namespace) -> list[Turn]:
    """CPU microseconds of a call of each, turn by turn."""
    counts = {}
    for name, call in callers.items():
        call()
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < arguments.seconds / 2:
            call()
            count += 1
        counts[name] = max(10, 2 * count)
    turns = []
    gc.collect()
    for at in range(arguments.turns):
        turn = {}
        names = list(callers)
        # Nobody always comes first.
        for name in names[at % len(names) :] + names[: at % len(names)]:
            call, count = callers[name], counts[name]
            began = time.process_time()
            for _ in range(count):
                call()
            turn[name] = (time.process_time() - began) / count * 1e6
        turns.append(turn)
    return turns


def _peak(call: Call) -> int:
    """The most memory that *call* holds of Python's and numpy's, its result included."""
    tracemalloc.start()
    kept = call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return peak


def _figure(what: str, unit: str, turns: list[Turn]) -> dict[str, Any]:
    figure: dict[str, Any] = {"what": what, "unit": unit}
    for name in CALLERS:
        if name in turns[0]:
            figure[name] = round(statistics.median(turn[name] for turn in turns), 1)
    for other in ("bare", "tritonclient"):
        if other in turns[0]:
            ratio = statistics.median(turn["headrace"] / turn[other] for turn in turns)
            figure[f"ratio_to_{other}"] = round(ratio, 3)
    return figure


def _claims(figures: list[dict[str, Any]]) -> list[report.Claim]:
    """What is wanted, and whether it is so."""
    row, large, strings, large_encoding = figures
    copied = large_encoding["peak_bytes"]["headrace"] - large_encoding["message_bytes"]
    wanted = (
        ("one iris row, CPU to a bare stub's", row["ratio_to_bare"], ROW_RATIO_TO_BARE_MAX),
        ("one iris row, CPU to tritonclient's", row["ratio_to_tritonclient"], 1.0),
        # grpcio's own part is above half of tritonclient's call: see the bare stub's figure.
        (
            "602 kB, CPU to tritonclient's",
            large["ratio_to_tritonclient"],
            LARGE_RATIO_TO_TRITON_MAX,
        ),
        (
            "602 kB, CPU before the transport, to tritonclient's",
            large_encoding["ratio_to_tritonclient"],
            LARGE_RATIO_TO_TRITON_MAX,
        ),
        ("602 kB, bytes held beside the message while it is made", copied, SMALL_OBJECTS_MAX),
        (f"{STRINGS} strings, ms to encode", strings["headrace"] / 1e3, STRINGS_MS_MAX),
        (f"{STRINGS} strings, to tritonclient's", strings["ratio_to_tritonclient"], 1.0),
    )
    return [report.at_most(*claim) for claim in wanted]


def _print(figures: list[dict[str, Any]], claims: list[report.Claim]) -> None:
    columns = ("what", *CALLERS, "ratio_to_bare", "ratio_to_tritonclient")
    report.print_figures(
        "CPU of the calling process, microseconds",
        {column: column.replace("_", " ") for column in columns},
        figures,
        cell=lambda _key, value: "" if value is None else str(value),
        text=("what",),
    )
    report.print_claims(claims)


def _triton_version() -> str:
    from importlib.metadata import version

    return version("tritonclient")


if __name__ == "__main__":
    main()
