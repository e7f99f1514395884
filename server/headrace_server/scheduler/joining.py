"""Joining: the answers to the parts of a split request, put together in order of their rows."""

from ..types import Outputs, OutputTensor, Part, PartAnswer, Request


def join(part: Part, outputs: Outputs, start: int, stop: int) -> Outputs | None:
    """Keep rows *start* to *stop* of *outputs*, the answer to *part*.

    Returns:
        The outputs of the whole request once those of all its parts are there, else None.
    """
    request = part.request
    if request.answers is None:
        request.answers = []
    tensors = tuple(
        OutputTensor(
            tensor.name,
            tensor.datatype,
            (stop - start, *tensor.shape[1:]),
            # Copied: the slot is used again before the last part is there.
            bytes(tensor.rows(start, stop, outputs.rows)),
        )
        for tensor in outputs.tensors
    )
    request.answers.append(PartAnswer(part.start, part.stop, tensors))
    if sum(answer.stop - answer.start for answer in request.answers) < request.rows:
        return None
    return _joined(request, outputs)


def _joined(request: Request, last: Outputs) -> Outputs:
    """The outputs of the whole request, whose *last* batch has come back.

    They are answered whole: where the rows of BYTES begin is of no use any more.
    """
    answers = sorted(request.answers or [], key=lambda answer: answer.start)
    tensors = []
    for same in zip(*(answer.tensors for answer in answers), strict=True):
        first = same[0]
        shape = (request.rows, *first.shape[1:])
        data = b"".join(tensor.data for tensor in same)
        tensors.append(OutputTensor(first.name, first.datatype, shape, data))
    return Outputs(last.model, tuple(tensors), request.rows, trip=last.trip)
