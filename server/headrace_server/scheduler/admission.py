"""Admission: whether a request's deadline can be met, as far as the learned times say."""

from ..errors import DeadlineInfeasible
from ..types import Request
from .servicetimes import ServiceTimes


def check_feasible(
    request: Request,
    times: ServiceTimes,
    *,
    rows_ahead: int,
    rows_max: int,
    busy_s: float,
    width: int,
    now: float,
) -> None:
    """Refuse *request* if its answer is expected after its deadline.

    What runs and what goes before it is shared by all instances; its own batch has what is left of
    full ones. Batches of other keys count as if they were its own key's. Where nothing is known of
    the times, nothing is refused.

    Args:
        request: It has a deadline.
        times: What batches took so far.
        rows_ahead: Rows that wait and go first.
        rows_max: Rows of a full batch.
        busy_s: What is left to do of the batches that run (seconds of one instance).
        width: Instances that are up; with none, nothing is known.
        now: The time (seconds).

    Raises:
        DeadlineInfeasible: It is; the message has the estimate.
    """
    if not width:
        return
    full, last = divmod(rows_ahead + request.rows - 1, rows_max)
    wait_s = (busy_s + full * times.expect(request.key, rows_max)) / width
    run_s = times.expect(request.key, last + 1)
    left_s = request.deadline_at - now
    if wait_s + run_s > left_s:
        raise DeadlineInfeasible(
            f"the answer is expected in {_ms(wait_s + run_s)} ({_ms(wait_s)} until its batch runs, "
            f"behind {rows_ahead} rows, and {_ms(run_s)} to run it); the deadline is in "
            f"{_ms(left_s)}"
        )


def _ms(seconds: float) -> str:
    return f"{max(seconds, 0.0) * 1e3:.3g} ms"
