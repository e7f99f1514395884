"""Listed: names in a message, where there may be many."""

from collections.abc import Sequence

_SHOWN_MAX = 8


def listed(names: Sequence[str]) -> str:
    """The first of *names*, and how many more there are."""
    if not names:
        return "none"
    more = len(names) - _SHOWN_MAX
    shown = ", ".join(names[:_SHOWN_MAX])
    return f"{shown} and {more} more" if more > 0 else shown
