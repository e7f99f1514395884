"""Types: the values that walk down the staircase and back up.

A Request goes from transport to scheduler; parts of requests make a Batch; a Batch comes back with
Outputs. What is the same for many requests stands once, in a Plan and a BatchKey.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from headrace.datatypes import Datatype
from headrace.signature import TensorSpec

from .errors import HeadraceError

Buffer = bytes | memoryview
# Of a request, its outputs and the rows of them that are its own: the message of its answer.
Encode = Callable[["Request", "Outputs", int, int], bytes]


@dataclass(frozen=True, slots=True)
class InputLayout:
    """How one input of a batch lies in memory, as its callers sent it.

    Attributes:
        name: The input's name.
        datatype: The datatype on the wire; the worker widens to the signature's.
        row_shape: All axes but the first; all axes where *has_rows* is false.
        row_bytes: Raw bytes of one row; 0 for BYTES.
        has_rows: Whether the first axis counts rows; it does in no input of a whole request.
        column: Its column in the signature, where the datatype does not say all of its values, as
            for text and JSON; else None.
        mask_of: The column whose missing values it tells; empty where it is no mask.
        is_alone: Whether that column does not come, since it has no value at all.
    """

    name: str
    datatype: Datatype
    row_shape: tuple[int, ...]
    row_bytes: int
    has_rows: bool = True
    column: TensorSpec | None = None
    mask_of: str = ""
    is_alone: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class BatchKey:
    """What requests must have in common to share a batch. Compared by identity.

    Attributes:
        inputs: The inputs, in the order in which requests hold their tensors.
        outputs: Names of the outputs asked for; empty for all.
        is_whole: Whether every batch is one whole request, never cut and never padded.
        model: Served name and version of the model it is a key of.
        parameters: The signature's parameters by name, as JSON; empty where it has none.
    """

    inputs: tuple[InputLayout, ...]
    outputs: tuple[str, ...] = ()
    is_whole: bool = False
    model: tuple[str, str] = ("", "")
    parameters: bytes = b""


class Batching(NamedTuple):
    """Whether requests to a model share batches.

    Attributes:
        verdict: "batched"; "whole" for a model that runs one request at a time; "unproven" for one
            that does so until its traffic has shown what it is.
        why: What that was concluded from, in a sentence.
    """

    verdict: str
    why: str


class Reply(Protocol):
    """Where an answer goes: the transport that the request came from.

    Both methods may be called from any thread, once per request; a caller may have left.
    """

    def answer(self, request: "Request", outputs: "Outputs", start: int, stop: int) -> None:
        """Send rows *start* to *stop* of *outputs*."""

    def fail(self, request: "Request", error: HeadraceError) -> None:
        """Send *error*."""


class Shaping(Protocol):
    """How requests of one kind are brought into the form of their batch key, and answers back."""

    def fill(self, tensors: Sequence[Buffer]) -> list[Buffer]:
        """The bytes of all inputs of the batch key, from the request's own."""

    def reply(self, reply: Reply) -> Reply:
        """Where the answers to such requests go, on their way to *reply*."""


class Request:
    """Rows that one caller wants run. Identity is the object itself.

    Attributes:
        key: What it must share with others to share a batch.
        rows: How many rows; at least 1.
        tensors: The raw bytes of each input, in the key's order.
        nbytes: Their total length.
        reply: Where the answer goes.
        call: What *reply* knows the call by.
        id_field: The encoded id of the request, to be echoed; empty when it has none.
        arrived_at: When it reached us (seconds, monotonic clock).
        deadline_at: When the caller stops waiting; infinity for never.
        priority: Its level, 1 the highest; the batcher puts it behind the last one where it has
            waited too long.
        timing: When it passed its steps; None where the caller did not ask.
        encode: How the transport writes its answer; None for the tensor protocol's way.
        taken_rows: How many of its rows batches have taken; the batcher's own.
        is_cancelled: Whether the caller has left; its rows are dropped.
        answers: What the batches of a split request have brought back; the scheduler's own.
        row_starts: Where rows begin in BYTES tensors of a split request; the gathering's own.
    """

    __slots__ = (
        "answers",
        "arrived_at",
        "call",
        "deadline_at",
        "encode",
        "id_field",
        "is_cancelled",
        "key",
        "nbytes",
        "priority",
        "reply",
        "row_starts",
        "rows",
        "taken_rows",
        "tensors",
        "timing",
    )

    def __init__(
        self,
        key: BatchKey,
        rows: int,
        tensors: Sequence[Buffer],
        reply: Reply,
        call: object,
        nbytes: int = 0,
        id_field: bytes = b"",
        arrived_at: float = 0.0,
        deadline_at: float = math.inf,
        priority: int = 1,
    ) -> None:
        self.key = key
        self.rows = rows
        self.tensors = tensors
        self.nbytes = nbytes
        self.reply = reply
        self.call = call
        self.id_field = id_field
        self.arrived_at = arrived_at
        self.deadline_at = deadline_at
        self.priority = priority
        self.timing: Timing | None = None
        self.encode: Encode | None = None
        self.taken_rows = 0
        self.is_cancelled = False
        self.answers: list[PartAnswer] | None = None
        self.row_starts: dict[int, Sequence[int]] | None = None

    def __repr__(self) -> str:
        return f"<Request {self.rows} rows, call {self.call}>"

    def is_late(self, now: float) -> bool:
        """Whether its deadline has come at *now*.

        gRPC rounds timeouts: a caller may leave a little before its deadline by our clock.
        """
        return self.deadline_at - now < max(0.1, 0.05 * (self.deadline_at - self.arrived_at))


@dataclass(slots=True, eq=False)
class Part:
    """Rows *start* to *stop* of a request; usually all of them."""

    request: Request
    start: int
    stop: int


@dataclass(slots=True, eq=False)
class Batch:
    """Rows that run together: closed when it is made, never changed afterwards.

    Attributes:
        key: What its requests share.
        parts: In the order of their rows.
        rows: Their sum.
        closed_at: When it was made (seconds, monotonic clock).
        is_split: Whether a part is less than its whole request.
        is_whole: Whether it is one whole request, whose answer may have any number of rows.
        padding: How many rows it ran with beyond its own, to reach an allowed size.
        gathered_ns: When its rows lay in the arena (nanoseconds, monotonic clock); for a batch that
            runs again, the last time.
        losses: How many workers died while they were at work on it.
        moves: How many workers died while they had it, at work on it or not.
        retry_until: When waiting for another worker ends; infinity while it waits for none.
    """

    key: BatchKey
    parts: list[Part]
    rows: int
    closed_at: float
    is_split: bool = False
    is_whole: bool = False
    padding: int = 0
    gathered_ns: int = 0
    losses: int = 0
    moves: int = 0
    retry_until: float = math.inf


@dataclass(slots=True)
class OutputTensor:
    """One output of a batch.

    Attributes:
        name: Its name.
        datatype: Its datatype.
        shape: All axes; the first counts rows where the model batches.
        data: Its raw bytes.
        row_starts: For BYTES, where each row begins and the last one ends; else None.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    data: Buffer
    row_starts: Sequence[int] | None = None

    def rows(self, start: int, stop: int, batch_rows: int) -> Buffer:
        """The raw bytes of rows *start* to *stop* of a batch of *batch_rows* rows."""
        if start == 0 and stop == batch_rows:
            return self.data
        if self.row_starts is not None:
            return self.data[self.row_starts[start] : self.row_starts[stop]]
        row_bytes = len(self.data) // batch_rows
        return self.data[start * row_bytes : stop * row_bytes]


@dataclass(slots=True, eq=False)
class Outputs:
    """What a batch brought back.

    Attributes:
        model: Served name and version, as the response states them.
        tensors: The outputs, in the order of the response.
        rows: Rows of the batch, padding included.
        heads: Room for the transport to keep encoded response headers, by rows, for this batch.
        trip: When the batch passed its steps; None for answers without one.
        refused: By row of the batch, why its outputs cannot be carried; None where all can.
    """

    model: tuple[str, str]
    tensors: tuple[OutputTensor, ...]
    rows: int
    heads: object = None
    trip: "Trip | None" = None
    refused: Mapping[int, str] | None = None


@dataclass(slots=True)
class PartAnswer:
    """The answer to one part of a split request, kept until all parts are there."""

    start: int
    stop: int
    tensors: tuple[OutputTensor, ...]


class Instants(NamedTuple):
    """When a batch passed the worker's steps: CLOCK_MONOTONIC in nanoseconds."""

    received: int
    staged: int
    computed: int
    finished: int


class Trip(NamedTuple):
    """How many rows a batch had, and when it passed each step (as Instants)."""

    rows: int
    closed: int
    gathered: int
    worker: Instants
    landed: int


class Timing:
    """When one request passed each step, for a caller who asked.

    Attributes:
        decoded_at: When its message was read (seconds, monotonic clock).
        submitted_at: When the burst that brought it was handed over.
        trip: That of its batch; of a split request, its last batch's. None before its answer, and
            for one that needed no batch.
    """

    __slots__ = ("decoded_at", "submitted_at", "trip")

    def __init__(self, decoded_at: float) -> None:
        self.decoded_at = decoded_at
        self.submitted_at = decoded_at
        self.trip: Trip | None = None


@dataclass(slots=True)
class Outcome:
    """How a batch ended.

    Attributes:
        outputs: What it brought back; None where *error* says why not.
        error: Why there are no outputs.
        is_detached: Whether the outputs no longer depend on the slot.
        overflowed: Whether the outputs exceeded the slot.
    """

    outputs: Outputs | None = None
    error: HeadraceError | None = None
    is_detached: bool = True
    overflowed: bool = False

    @property
    def instants(self) -> Instants | None:
        """When it passed the worker's steps, where it came back from one."""
        trip = None if self.outputs is None else self.outputs.trip
        return None if trip is None else trip.worker


class Target(Protocol):
    """What requests are submitted to: the scheduler of one model version."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue *requests*; each is answered through its reply."""

    def cancel(self, request: Request) -> None:
        """The caller of *request* left."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What was worked out once for all requests that look alike.

    Attributes:
        target: Where they are submitted.
        key: Their batch key.
        rows: Their rows.
        order: For each input of the key, which tensor of the request fills it; -1 for one that the
            shaping writes.
        byte_counts: Expected length of each tensor of the request; -1 for BYTES.
        element_counts: Elements of each tensor of the request.
        checked: Which inputs of the key hold values to look at: BOOL, which must be 0 or 1, and
            integers that must stay within 2**53.
        timeout_s: How long they may take at most; infinity for no limit.
        priority: Their level, 1 the highest.
        shaping: What is done to their tensors and answers; None for most.
        masks: Which tensor of the request is the mask of which, by the latter's index.
    """

    target: Target
    key: BatchKey
    rows: int
    order: tuple[int, ...]
    byte_counts: tuple[int, ...]
    element_counts: tuple[int, ...]
    checked: tuple[int, ...]
    timeout_s: float = math.inf
    priority: int = 1
    shaping: Shaping | None = None
    masks: Mapping[int, int] = field(default_factory=dict)
