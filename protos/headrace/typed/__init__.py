"""Typed services: a gRPC service per model, made from its signature.

`describe` says what it consists of, `file_of` writes it down as protobuf does. Both are pure: equal
signatures and equal known numbers give equal services, on the daemon's side and on a stub's.
"""

from .description import PACKAGE, Item, Kind, TypedService, describe, service_name
from .descriptor import file_of
from .fingerprint import SIGNATURE_KEY, SIGNATURE_PARAMETER, Drift, drift, fingerprint
from .numbers import FieldNumbers

__all__ = [
    "PACKAGE",
    "SIGNATURE_KEY",
    "SIGNATURE_PARAMETER",
    "Drift",
    "FieldNumbers",
    "Item",
    "Kind",
    "TypedService",
    "describe",
    "drift",
    "file_of",
    "fingerprint",
    "service_name",
]
