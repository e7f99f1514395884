"""Stubs: what modules that `headrace stub` writes are built on.

Types of their arguments, and the clients that carry these to a server and back. People who use such
a module need its own classes alone.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from types import TracebackType
from typing import Any, ClassVar, Self, TypeAlias

import grpc
import numpy as np
import numpy.typing as npt

from headrace.signature import TensorSpec

from .aio import AsyncClient
from .channel import DEFAULT_TARGET
from .client import Client
from .contract import Contract, StubCodec
from .types import Prediction

__all__ = [
    "AsyncStub",
    "Binaries",
    "Bool",
    "Bools",
    "Contract",
    "Float",
    "Floats",
    "Instant",
    "Instants",
    "Int",
    "Ints",
    "NullableBinaries",
    "NullableBools",
    "NullableTexts",
    "Prediction",
    "Stub",
    "TensorSpec",
    "Texts",
]

# One value of a column, and a column of them.
Bool: TypeAlias = bool | np.bool_
Int: TypeAlias = int | np.integer[Any]
Float: TypeAlias = float | np.floating[Any] | np.integer[Any]
Instant: TypeAlias = datetime | date | np.datetime64 | str
Bools: TypeAlias = npt.NDArray[np.bool_] | Sequence[Bool]
Ints: TypeAlias = npt.NDArray[np.integer[Any]] | Sequence[Int]
Floats: TypeAlias = (
    npt.NDArray[np.floating[Any]] | npt.NDArray[np.integer[Any]] | Sequence[Float | None]
)
Instants: TypeAlias = npt.NDArray[np.datetime64] | Sequence[Instant | None]
Texts: TypeAlias = npt.NDArray[np.object_] | npt.NDArray[np.str_] | Sequence[str]
Binaries: TypeAlias = npt.NDArray[np.object_] | npt.NDArray[np.bytes_] | Sequence[bytes]
# Of which some rows may lack a value.
NullableBools: TypeAlias = Bools | npt.NDArray[np.object_] | Sequence[Bool | None]
NullableTexts: TypeAlias = Texts | Sequence[str | None]
NullableBinaries: TypeAlias = Binaries | Sequence[bytes | None]


class Stub:
    """A typed client of one model, for threads; close it, or use it in a with statement.

    Its subclass, in the module that was written, has the methods that ask the model.
    """

    contract: ClassVar[Contract]

    def __init__(
        self,
        target: str | Sequence[str] | grpc.Channel | Client = DEFAULT_TARGET,
        *,
        version: str = "",
        model: str = "",
        token: str | None = None,
    ) -> None:
        """Prepare a connection; nothing is sent before the first call.

        Args:
            target: Where the server is, or a channel to it, as `Client` takes it; or a Client, with
                whatever options it has, which others may use too and which is not closed here.
            version: A number, "@" and an alias, or empty for the version the name is served by.
            model: The name it is served by; empty for the one the stub was written of.
            token: What the server knows us by, where *target* is no Client.

        Raises:
            ValueError: *target* is no address, or *token* no token.
        """
        contract = self.contract
        self._codec = StubCodec(contract, model or contract.model, version)
        self._is_owner = not isinstance(target, Client)
        self._client = target if isinstance(target, Client) else Client(target, token=token)

    def close(self) -> None:
        """Close the connection, unless it was given as a Client."""
        if self._is_owner:
            self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _row(
        self,
        values: Sequence[Any],
        parameters: Mapping[str, Any] | None,
        timeout_s: float | None,
    ) -> tuple[Any, ...]:
        """One value per output, for one value per input."""
        return self._codec.row_values(
            self._exchange(self._codec.row(values, parameters), timeout_s)
        )

    def _batch(
        self,
        columns: Sequence[Any],
        parameters: Mapping[str, Any] | None,
        timeout_s: float | None,
    ) -> tuple[Any, ...]:
        """One array per output, for one column or tensor per input."""
        payload = self._codec.batch(columns, parameters)
        return self._codec.batch_values(self._exchange(payload, timeout_s))

    def _row_prediction(
        self,
        values: Sequence[Any],
        parameters: Mapping[str, Any] | None,
        timeout_s: float | None,
    ) -> Prediction:
        """What a model whose signature names no outputs answers to a single row."""
        return self._codec.prediction(
            self._exchange(self._codec.row(values, parameters), timeout_s)
        )

    def _batch_prediction(
        self,
        columns: Sequence[Any],
        parameters: Mapping[str, Any] | None,
        timeout_s: float | None,
    ) -> Prediction:
        """What a model whose signature names no outputs answers to several rows."""
        payload = self._codec.batch(columns, parameters)
        return self._codec.prediction(self._exchange(payload, timeout_s))

    def _exchange(self, payload: bytes, timeout_s: float | None) -> bytes:
        return self._client.exchange(payload, timeout=timeout_s)


class AsyncStub:
    """A typed client of one model, for one event loop: make it where that loop runs.

    Its subclass, in the module that was written, has the methods that ask the model.
    """

    contract: ClassVar[Contract]

    def __init__(
        self,
        target: str | Sequence[str] | grpc.aio.Channel | AsyncClient = DEFAULT_TARGET,
        *,
        version: str = "",
        model: str = "",
        token: str | None = None,
    ) -> None:
        """Prepare a connection; nothing is sent before the first call.

        Args:
            target: Where the server is, or a channel to it, as `AsyncClient` takes it; or an
                AsyncClient, with whatever options it has, which others may use too and which is not
                closed here.
            version: A number, "@" and an alias, or empty for the version the name is served by.
            model: The name it is served by; empty for the one the stub was written of.
            token: What the server knows us by, where *target* is no AsyncClient.

        Raises:
            ValueError: *target* is no address, or *token* no token.
        """
        contract = self.contract
        self._codec = StubCodec(contract, model or contract.model, version)
        self._is_owner = not isinstance(target, AsyncClient)
        self._client = (
            target if isinstance(target, AsyncClient) else AsyncClient(target, token=token)
        )

    async def close(self) -> None:
        """Close the connection, unless it was given as an AsyncClient."""
        if self._is_owner:
            await self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _row(
        self,
        values: Sequence[Any],
        parameters: Mapping[str, Any] | None,
        timeout_s: float | None,
    ) -> tuple[Any, ...]:
        """One value per output, for one value per input."""
        return self._codec.row_values(
            await self._exchange(self._codec.row(values, parameters), timeout_s)
        )

    async def _batch(
        self,
        columns: Sequence[Any],
        parameters: Mapping[str, Any] | None,
        timeout_s: float | None,
    ) -> tuple[Any, ...]:
        """One array per output, for one column or tensor per input."""
        payload = self._codec.batch(columns, parameters)
        return self._codec.batch_values(await self._exchange(payload, timeout_s))

    async def _row_prediction(
        self,
        values: Sequence[Any],
        parameters: Mapping[str, Any] | None,
        timeout_s: float | None,
    ) -> Prediction:
        """What a model whose signature names no outputs answers to a single row."""
        return self._codec.prediction(
            await self._exchange(self._codec.row(values, parameters), timeout_s)
        )

    async def _batch_prediction(
        self,
        columns: Sequence[Any],
        parameters: Mapping[str, Any] | None,
        timeout_s: float | None,
    ) -> Prediction:
        """What a model whose signature names no outputs answers to several rows."""
        payload = self._codec.batch(columns, parameters)
        return self._codec.prediction(await self._exchange(payload, timeout_s))

    async def _exchange(self, payload: bytes, timeout_s: float | None) -> bytes:
        return await self._client.exchange(payload, timeout=timeout_s)
