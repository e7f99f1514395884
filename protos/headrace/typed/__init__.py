"""Typed services: a gRPC service per model, made from its signature.

`describe` says what it consists of, `file_of` writes it down as protobuf does. Both are pure: equal
signatures and equal known numbers give equal services, on the daemon's side and on a stub's.
"""

from .description import DATATYPE_OF_ARRAY, Item, Kind, TypedService, describe
from .descriptor import file_of
from .fingerprint import Drift, drift, fingerprint
from .numbers import FieldNumbers

__all__ = [
    "DATATYPE_OF_ARRAY",
    "Drift",
    "FieldNumbers",
    "Item",
    "Kind",
    "TypedService",
    "describe",
    "drift",
    "file_of",
    "fingerprint",
]
