"""Stubs: what `headrace stub` writes of a model: a Python module, or a .proto file.

Both are pure functions of a typed service: equal signatures give equal text.
"""

from .module import module_of
from .protofile import proto_of

__all__ = ["module_of", "proto_of"]
