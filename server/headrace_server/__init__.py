"""The daemon and its processes."""

from typing import Final

VERSION: Final = "0.1.0"
