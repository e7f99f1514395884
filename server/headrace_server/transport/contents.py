"""Contents: tensors that came as typed elements, as the raw bytes that everything else works on."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from headrace.datatypes import BYTES, DATATYPES, Datatype
from headrace.elements import encode_elements
from headrace.oip.open_inference_pb2 import ModelInferRequest

from ..errors import InvalidRequest
from ..types import Buffer


def typed_bytes(tensor: ModelInferRequest.InferInputTensor) -> Buffer:
    """The raw bytes of a tensor that came as typed elements.

    Raises:
        InvalidRequest: The datatype is unknown, or the elements are not of it.
    """
    datatype = DATATYPES.get(tensor.datatype)
    if datatype is None:
        raise InvalidRequest(
            f"input {tensor.name!r}: unknown datatype {tensor.datatype!r}, expected one of "
            f"{', '.join(DATATYPES)}"
        )
    used = [field.name for field, _ in tensor.contents.ListFields()]
    if any(name != datatype.contents for name in used):
        expected = datatype.contents or "raw_input_contents"
        raise InvalidRequest(
            f"input {tensor.name!r}: {datatype.name} belongs in {expected}, got {', '.join(used)}"
        )
    if datatype.contents is None:
        return b""
    elements = getattr(tensor.contents, datatype.contents)
    if datatype is BYTES:
        return encode_elements(elements)
    return _narrowed(tensor.name, elements, datatype).tobytes()


def _narrowed(
    name: str, elements: "Sequence[int] | Sequence[float]", datatype: Datatype
) -> npt.NDArray[np.generic]:
    """The elements in the datatype's own width; a value that does not fit is refused, never cut."""
    assert datatype.wire is not None, "BYTES have no width"
    if datatype.wire.kind not in "iu":
        return np.fromiter(elements, datatype.wire, len(elements))
    wide = np.fromiter(elements, np.uint64 if datatype.wire.kind == "u" else np.int64)
    bounds = np.iinfo(datatype.wire.str)
    if wide.size and (int(wide.max()) > bounds.max or int(wide.min()) < bounds.min):
        raise InvalidRequest(
            f"input {name!r}: {datatype.name} holds {bounds.min} to {bounds.max}, "
            f"got {int(wide.min())} to {int(wide.max())}"
        )
    return wide.astype(datatype.wire)
