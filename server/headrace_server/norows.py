"""NoRows: requests of no rows, which are answered at once: many models fail on them."""

from collections.abc import Sequence

from headrace.datatypes import DATATYPES

from .errors import InvalidRequest
from .instrument import Instrument
from .repository.model import ModelVersion
from .types import Outputs, OutputTensor, Request


class NoRows:
    """A target that answers with no rows of the outputs."""

    def __init__(self, instrument: Instrument, outputs: Outputs) -> None:
        self._instrument = instrument
        self._outputs = outputs

    def submit(self, requests: Sequence[Request]) -> None:
        """See `types.Target`."""
        for request in requests:
            if not request.is_cancelled:
                self._instrument.answered_empty += 1
                request.reply.answer(request, self._outputs, 0, 0)

    def cancel(self, request: Request) -> None:
        """See `types.Target`."""
        request.is_cancelled = True


def no_rows(model: ModelVersion, wanted: Sequence[str]) -> Outputs:
    """No rows of the outputs that *model* is known to have; inner axes of any size are 0.

    Raises:
        InvalidRequest: They are not known, or do not follow the rows.
    """
    specs = {spec.name: spec for spec in model.signature.outputs} if model.signature else {}
    if not specs:
        raise InvalidRequest(
            f"model {model.name!r}: expected at least 1 row, got none; its outputs are not known"
        )
    tensors = []
    for spec in (specs[name] for name in wanted or specs):
        if spec.shape[:1] != (-1,):
            raise InvalidRequest(
                f"model {model.name!r}: expected at least 1 row, got none; its output "
                f"{spec.name!r} of shape {list(spec.shape)} does not follow the rows"
            )
        shape = (0, *(max(size, 0) for size in spec.shape[1:]))
        tensors.append(OutputTensor(spec.name, DATATYPES[spec.datatype], shape, b""))
    return Outputs((model.name, model.version), tuple(tensors), 0)
