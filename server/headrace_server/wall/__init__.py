"""Wall: what the kernel lets a confined process touch, whatever runs in it.

Standard library only: this package also runs inside a model's own, older environment.
"""

from .wall import Wall, lacks, raise_wall, stay_within

__all__ = ["Wall", "lacks", "raise_wall", "stay_within"]
