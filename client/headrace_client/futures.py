"""Futures: a prediction that is on its way."""

from collections.abc import Callable
from typing import Self

import grpc

from .errors import Cancelled, HeadraceClientError, error_of
from .forks import process
from .types import Prediction


class PredictionFuture:
    """The answer to a request that `Client.submit` sent. Safe from any thread.

    Hold on to it, or give it a callback: gRPC cancels a request whose future nobody has. In a
    forked child each method raises RuntimeError: the answer comes to the parent.
    """

    def __init__(
        self,
        call: "grpc.Future[bytes]",
        decode: Callable[[bytes], Prediction],
        on_error: Callable[[HeadraceClientError], None],
    ) -> None:
        """Wrap *call*; *on_error* hears of every error that `result` or `exception` gives."""
        self._call = call
        self._decode = decode
        self._on_error = on_error
        self._generation = process.generation

    def result(self, timeout: float | None = None) -> Prediction:
        """Wait for the answer, at most *timeout* seconds.

        Raises:
            HeadraceClientError: The request failed or was cancelled.
            TimeoutError: There is no answer yet; the request goes on.
        """
        try:
            payload = self._own_call().result(timeout)
        except grpc.FutureTimeoutError:
            raise TimeoutError(f"no answer within {timeout} s") from None
        except grpc.FutureCancelledError:
            raise Cancelled("the request was cancelled") from None
        except grpc.RpcError as error:
            ours = error_of(error)
            self._on_error(ours)
            raise ours from error
        return self._decode(payload)

    def exception(self, timeout: float | None = None) -> HeadraceClientError | None:
        """Wait like `result`; the error it would raise, or None.

        Raises:
            TimeoutError: There is no answer yet; the request goes on.
        """
        try:
            self.result(timeout)
        except HeadraceClientError as error:
            return error
        return None

    def done(self) -> bool:
        """Whether the request has ended, in whatever way."""
        return self._own_call().done()

    def cancelled(self) -> bool:
        """Whether it ended by `cancel`."""
        return self._own_call().cancelled()

    def cancel(self) -> bool:
        """Withdraw the request; whether that came before its end."""
        return self._own_call().cancel()

    def add_done_callback(self, callback: Callable[[Self], None]) -> None:
        """Call *callback* with this future once it is done, at once or from a thread of gRPC's."""
        self._own_call().add_done_callback(lambda _: callback(self))

    def _own_call(self) -> "grpc.Future[bytes]":
        # Nobody in a forked child would ever end it.
        if self._generation != process.generation:
            raise RuntimeError(
                "this prediction was asked for before the process forked, and its answer comes to "
                "the parent: make a client in each process, after the fork"
            )
        return self._call

    def __repr__(self) -> str:
        if self._generation != process.generation:
            return "<PredictionFuture of the parent process>"
        state = "cancelled" if self.cancelled() else "done" if self.done() else "pending"
        return f"<PredictionFuture {state}>"
