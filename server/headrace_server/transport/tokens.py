"""Tokens: who may call, as a file of the server's tells it, and how such a file comes to be.

A token is 256 random bits as text; the file holds its SHA-256 alone. A plain hash is enough: slow,
salted ones are for passwords, which people choose and others guess, and nobody guesses 256 bits. So
that this holds, shorter tokens are refused whatever the file says.

    [[token]]
    name = "shop"
    hash = "sha256:c84f102777aede0a64bcdf794f34d57bff12c86862c591658376faa93da4adb4"
    scopes = ["inference"]
"""

import difflib
import enum
import fcntl
import hashlib
import os
import re
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import UsageError

TOKENS_MAX: Final = 1000
# Base64 of 256 bits; hexadecimal digits are more.
TOKEN_CHARS_MIN: Final = 43
TOKEN_CHARS_MAX: Final = 512

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_NAME_FORM: Final = "expected up to 64 letters, digits or . _ @ -, a letter or digit first"
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_KEYS: Final = ("name", "hash", "scopes")


class Scope(enum.Enum):
    """What a token is for."""

    INFERENCE = "inference"
    REPOSITORY = "repository"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Token:
    """What the server knows of a token.

    Attributes:
        name: Who has it; for people.
        digest: SHA-256 of its text.
        scopes: What it is for.
    """

    name: str
    digest: bytes
    scopes: frozenset[Scope]


def parse_tokens(path: str, content: bytes) -> tuple[Token, ...]:
    """The tokens that a file holds.

    Args:
        path: Its name, for errors.
        content: What it holds.

    Raises:
        UsageError: It is no such file, or an entry lacks something, is weak or stands twice.
    """
    try:
        document = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    for key in document:
        if key != "token":
            raise UsageError(f"{path} has {key!r}: expected [[token]] tables alone")
    entries = document.get("token")
    if entries is None:
        # A file that is just being written is empty too; it must not lock everybody out.
        raise UsageError(f"{path} holds no [[token]]; to admit nobody, write: token = []")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path} has token in another form: expected [[token]] tables")
    if len(entries) > TOKENS_MAX:
        raise UsageError(f"{path} holds {len(entries)} tokens: expected {TOKENS_MAX} at most")
    tokens: list[Token] = []
    names: set[str] = set()
    for number, entry in enumerate(entries, 1):
        token = _parsed(f"{path}, token {number}", entry)
        if token.name in names:
            raise UsageError(f"{path} names {token.name!r} twice")
        if any(token.digest == other.digest for other in tokens):
            raise UsageError(f"{path}: {token.name!r} has the hash of another token")
        names.add(token.name)
        tokens.append(token)
    return tuple(tokens)


def _parsed(place: str, entry: Mapping[str, Any]) -> Token:
    for key in entry:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_KEYS)}"
            raise UsageError(f"{place}: there is no {key!r}; {hint}")
    for key in _KEYS:
        if key not in entry:
            raise UsageError(f"{place} has no {key}")
    name = entry["name"]
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise UsageError(f"{place}: name={name!r}: {_NAME_FORM}")
    place = f"{place} ({name})"
    given = entry["hash"]
    match = _HASH.fullmatch(given) if isinstance(given, str) else None
    if match is None:
        # Not shown: it may be a token that was put there in the clear.
        raise UsageError(
            f"{place}: expected hash to be sha256: and 64 hexadecimal digits in lower case, as "
            "headrace token writes it"
        )
    scopes = entry["scopes"]
    if not isinstance(scopes, list) or not scopes:
        raise UsageError(f"{place}: expected scopes to be a list of {listed(Scope, 'or')}")
    try:
        found = frozenset(map(Scope, scopes))
    except (ValueError, TypeError):
        raise UsageError(f"{place}: scopes={scopes!r}: expected {listed(Scope, 'or')}") from None
    return Token(name, bytes.fromhex(match[1]), found)


def make_token() -> str:
    """A new token: 256 random bits, with a beginning by which secret scanners can know it."""
    return f"headrace_{secrets.token_urlsafe(32)}"


def entry_of(token: str, name: str, scopes: Iterable[Scope]) -> str:
    """What the server's file needs to hold for *token*.

    Raises:
        UsageError: *name* cannot be a token's.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"cannot name a token {name!r}: {_NAME_FORM}")
    wanted = set(scopes)
    quoted = ", ".join(f'"{scope.value}"' for scope in Scope if scope in wanted)
    digest = digest_of(token).hex()
    return f'[[token]]\nname = "{name}"\nhash = "sha256:{digest}"\nscopes = [{quoted}]\n'


def append_entry(path: str, entry: str) -> None:
    """Add *entry* to a file of tokens; a new file is readable by its owner alone.

    Raises:
        UsageError: The file cannot be written, holds something else, or has that name already;
            it was not changed.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(handle, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            content = file.read()
            between = b"" if not content else b"\n" if content.endswith(b"\n") else b"\n\n"
            added = between + entry.encode()
            parse_tokens(path, content + added)
            # One write, so that a daemon reads all of it or nothing.
            file.write(added)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {os.strerror(error.errno or 0)}") from None


def digest_of(token: str) -> bytes:
    """What a token is known by."""
    return hashlib.sha256(token.encode()).digest()


def listed(scopes: Iterable[Scope], word: str = "and") -> str:
    """*scopes* in words, in the order of `Scope`."""
    return f" {word} ".join(scope.value for scope in Scope if scope in scopes)
