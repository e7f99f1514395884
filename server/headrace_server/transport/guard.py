"""Guard: which calls may pass, by the token that comes with them.

It travels as metadata, `authorization: Bearer TOKEN`, over either transport.
"""

import hmac
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from headrace.typed import PACKAGE

from ..errors import HeadraceError, PermissionDenied, Unauthenticated
from .tokens import TOKEN_CHARS_MAX, TOKEN_CHARS_MIN, Scope, Token, digest_of, listed

# Headers that were found good, per method; beyond it all are looked at anew.
_PASSED_MAX: Final = 4096

_HEADER = re.compile(r"bearer +(\S+)", re.IGNORECASE)

_INFERENCE: Final = "/inference.GRPCInferenceService/"

_TYPED: Final = f"/{PACKAGE}."

_ANY: Final = frozenset(Scope)
_INFER: Final = frozenset({Scope.INFERENCE, Scope.ADMIN})
_MANAGE: Final = frozenset({Scope.REPOSITORY, Scope.ADMIN})

# Those of typed services are scoped as ModelInfer is.
# Method -> the scopes of which a token needs one. What does not stand here is not served where
# tokens are demanded; a test holds the table against the services.
SCOPES_OF: Final[Mapping[str, frozenset[Scope]]] = {
    f"{_INFERENCE}ServerLive": _ANY,
    f"{_INFERENCE}ServerReady": _ANY,
    f"{_INFERENCE}ServerMetadata": _INFER,
    f"{_INFERENCE}ModelReady": _INFER,
    f"{_INFERENCE}ModelMetadata": _INFER,
    f"{_INFERENCE}ModelInfer": _INFER,
    f"{_INFERENCE}RepositoryIndex": _INFER | _MANAGE,
    f"{_INFERENCE}RepositoryModelLoad": _MANAGE,
    f"{_INFERENCE}RepositoryModelUnload": _MANAGE,
    "/grpc.health.v1.Health/Check": _ANY,
    "/grpc.health.v1.Health/Watch": _ANY,
    "/grpc.health.v1.Health/List": _ANY,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _ANY,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _ANY,
}
# What `open_health` opens.
HEALTH: Final = frozenset(
    {
        f"{_INFERENCE}ServerLive",
        f"{_INFERENCE}ServerReady",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.health.v1.Health/List",
    }
)


class MethodUnknown(HeadraceError):
    """No method of that name is served to holders of tokens."""

    code = "UNIMPLEMENTED"
    reason = "unimplemented"


class Guard:
    """Lets calls pass or not. Safe from any thread.

    A header is hashed and compared when it is first seen. Those found good are remembered until the
    tokens change; those found bad never are, or callers could fill the memory with them.
    """

    def __init__(self, tokens: Iterable[Token], *, open_health: bool) -> None:
        self._open = HEALTH if open_health else frozenset()
        self._state = _State(tuple(tokens))

    def replace(self, tokens: Iterable[Token]) -> None:
        """Let these and no other tokens pass from now on."""
        # As a whole: what was found good by the old tokens is forgotten with them.
        self._state = _State(tuple(tokens))

    def passed(self, method: str) -> Collection[str | bytes]:
        """The headers that are known to be good for *method*: what need not be checked.

        Ask again for every burst; a change of tokens makes another set.
        """
        return self._state.passed[method]

    def check(self, method: str, header: str | bytes | None) -> None:
        """Let a call pass.

        Args:
            method: Its full name, as in "/package.Service/Method".
            header: The value of its metadata "authorization"; None where there is none.

        Raises:
            Unauthenticated: The token is missing or wrong.
            PermissionDenied: The token has no scope that *method* needs.
            MethodUnknown: The token is right, but there is no such method.
        """
        state = self._state
        what = method.rpartition("/")[2]
        if method.startswith(_TYPED):
            method = f"{_INFERENCE}ModelInfer"
        passed = state.passed.get(method)
        # A dict's lookup compares texts only where their keyed 64 bit hashes are equal, so its time
        # tells nothing about the headers in it.
        if (passed is not None and header in passed) or method in self._open:
            return
        token = _find(state.tokens, header)
        if passed is None:
            raise MethodUnknown("there is no such method")
        needed = SCOPES_OF[method]
        if not token.scopes & needed:
            raise PermissionDenied(
                f"token {token.name!r} is for {listed(token.scopes)}: "
                f"{what} needs one for {listed(needed, 'or')}"
            )
        if len(passed) >= _PASSED_MAX:
            passed.clear()
        assert header is not None, "a call without a header was refused"
        passed.add(header)


class _State:
    """Tokens, and the headers that they made good."""

    def __init__(self, tokens: tuple[Token, ...]) -> None:
        self.tokens = tokens
        self.passed: dict[str, set[str | bytes]] = {method: set() for method in SCOPES_OF}


def _find(tokens: tuple[Token, ...], header: str | bytes | None) -> Token:
    if not header:
        raise Unauthenticated(
            "this server wants a token: expected metadata authorization: Bearer TOKEN"
        )
    text = header.decode("latin-1") if isinstance(header, bytes) else header
    match = _HEADER.fullmatch(text.strip())
    if match is None:
        raise Unauthenticated("expected metadata authorization: Bearer TOKEN, got another form")
    if not TOKEN_CHARS_MIN <= len(match[1]) <= TOKEN_CHARS_MAX:
        raise Unauthenticated(
            f"the token has {len(match[1])} characters: expected {TOKEN_CHARS_MIN} to "
            f"{TOKEN_CHARS_MAX}"
        )
    digest = digest_of(match[1])
    found = None
    # All of them, so that the time does not tell which one it was.
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    if found is None:
        raise Unauthenticated("the token is not known to this server")
    return found
