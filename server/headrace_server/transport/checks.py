"""Checks: what no plan can know of a request's tensors: their lengths, elements and values."""

from collections.abc import Sequence

import numpy as np

from headrace.datatypes import EXACT_INTEGER_MAX
from headrace.elements import TensorError, element_offsets

from ..errors import InvalidRequest
from ..types import Buffer, Plan
from .columns import check_column


def check_bytes(plan: Plan, given: Sequence[Buffer]) -> None:
    """Whether each tensor has as many bytes, or BYTES elements, as its shape needs."""
    if len(given) != len(plan.byte_counts):
        raise InvalidRequest(
            f"raw_input_contents: expected {len(plan.byte_counts)} entries, one per input, "
            f"got {len(given)}"
        )
    for index, (data, nbytes) in enumerate(zip(given, plan.byte_counts, strict=True)):
        if nbytes >= 0:
            if len(data) != nbytes:
                raise InvalidRequest(
                    f"{_input_name(plan, index)}: expected {nbytes} bytes for its shape and "
                    f"datatype, got {len(data)}"
                )
            continue
        try:
            offsets = element_offsets(data, plan.element_counts[index])
        except TensorError as error:
            raise InvalidRequest(f"{_input_name(plan, index)}: {error}") from None
        column = plan.key.inputs[plan.order.index(index)].column
        if column is not None:
            check_column(column, data, offsets, _mask(plan, index, given))


def check_values(plan: Plan, tensors: Sequence[Buffer]) -> None:
    """Whether BOOL is 0 or 1, and integers that become FP64 stay within 2**53.

    A mask without its column must be true in every row.
    """
    for index in plan.checked:
        layout = plan.key.inputs[index]
        if layout.datatype.name == "BOOL":
            octets = np.frombuffer(tensors[index], np.uint8)
            if octets.size and octets.max() > 1:
                # numpy would take any byte for true, but keep its odd bits in what is computed.
                raise InvalidRequest(
                    f"input {layout.name!r}: expected BOOL elements of 0 or 1, got {octets.max()}"
                )
            if layout.is_alone and octets.size and not octets.min():
                raise InvalidRequest(
                    f"input {layout.name!r}: expected true in every row, since input "
                    f"{layout.mask_of!r} is not there, got false in row {octets.argmin()}"
                )
            continue
        values = np.frombuffer(tensors[index], layout.datatype.wire)
        if values.size and (
            int(values.max()) > EXACT_INTEGER_MAX or int(values.min()) < -EXACT_INTEGER_MAX
        ):
            raise InvalidRequest(
                f"input {layout.name!r}: {layout.datatype.name} values beyond 2**53 cannot become "
                "FP64 without loss"
            )


def _mask(plan: Plan, index: int, given: Sequence[Buffer]) -> Buffer:
    """The mask of the tensor at *index*; empty where it has none, or one that is to be refused."""
    at = plan.masks.get(index)
    return b"" if at is None or len(given[at]) != plan.byte_counts[at] else given[at]


def _input_name(plan: Plan, index: int) -> str:
    return f"input {plan.key.inputs[plan.order.index(index)].name!r}"
