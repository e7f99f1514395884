"""Timings: how a call asks where its time goes, and under which key it is told."""

from typing import Final

# Of the trailing metadata, whose value is JSON; see docs/timings.md.
KEY: Final = "headrace-timings"
# What the metadata of a call that asks holds.
ASKED: Final = (KEY, "1")
