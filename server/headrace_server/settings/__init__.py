"""Settings: what an operator may say, read once at the edge; frozen values inward.

Weakest first: defaults, the tags of a model's version, headrace.toml, the environment, flags.
"""

from .effective import Settings
from .sources import read_settings
from .tables import (
    AuthSettings,
    BucketBy,
    ModelSettings,
    SandboxSettings,
    ServerSettings,
    TlsSettings,
)
from .uris import shown_uri, socket_path, split_model

__all__ = [
    "AuthSettings",
    "BucketBy",
    "ModelSettings",
    "SandboxSettings",
    "ServerSettings",
    "Settings",
    "TlsSettings",
    "read_settings",
    "shown_uri",
    "socket_path",
    "split_model",
]
