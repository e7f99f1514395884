"""Which calls pass: the table of methods, tokens, and what is remembered of them."""

import pytest

from headrace_server.errors import HeadraceError, PermissionDenied, Unauthenticated
from headrace_server.transport import guard as module
from headrace_server.transport.guard import HEALTH, SCOPES_OF, Guard, MethodUnknown
from headrace_server.transport.tokens import Scope, Token, digest_of, make_token

INFER = "/inference.GRPCInferenceService/ModelInfer"
INDEX = "/inference.GRPCInferenceService/RepositoryIndex"
LOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"
LIVE = "/inference.GRPCInferenceService/ServerLive"
METADATA = "/inference.GRPCInferenceService/ServerMetadata"
CHECK = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
REFLECTION_ALPHA = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

SECRETS = {scope: make_token() for scope in Scope}


def guard(*, open_health: bool = False) -> Guard:
    return Guard(tokens(), open_health=open_health)


def tokens() -> list[Token]:
    return [
        Token(scope.value, digest_of(secret), frozenset({scope}))
        for scope, secret in SECRETS.items()
    ]


def header(scope: Scope) -> str:
    return f"Bearer {SECRETS[scope]}"


@pytest.mark.parametrize(
    ("method", "allowed"),
    [
        (INFER, {Scope.INFERENCE, Scope.ADMIN}),
        (METADATA, {Scope.INFERENCE, Scope.ADMIN}),
        (INDEX, set(Scope)),
        (LOAD, {Scope.REPOSITORY, Scope.ADMIN}),
        (LIVE, set(Scope)),
        (CHECK, set(Scope)),
        (REFLECTION, set(Scope)),
        (REFLECTION_ALPHA, set(Scope)),
    ],
)
def test_a_method_wants_one_of_its_scopes(method: str, allowed: set[Scope]) -> None:
    for scope in Scope:
        if scope in allowed:
            guard().check(method, header(scope))
        else:
            with pytest.raises(PermissionDenied, match=method.rpartition("/")[2]) as caught:
                guard().check(method, header(scope))
            assert f"token {scope.value!r} is for {scope.value}" in str(caught.value)


@pytest.mark.parametrize("method", [*SCOPES_OF, "/some.Other/Method"])
@pytest.mark.parametrize("is_open", [False, True])
def test_without_a_token_nothing_passes_but_health_where_it_is_open(
    method: str, is_open: bool
) -> None:
    closed = guard(open_health=is_open)

    if is_open and method in HEALTH:
        closed.check(method, None)
        return
    for wrong in (None, "", f"Bearer {make_token()}"):
        with pytest.raises(Unauthenticated):
            closed.check(method, wrong)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (SECRETS[Scope.ADMIN], "another form"),
        (f"Basic {SECRETS[Scope.ADMIN]}", "another form"),
        (f"Bearer {SECRETS[Scope.ADMIN]} more", "another form"),
        ("Bearer ", "another form"),
        ("Bearer short", "has 5 characters: expected 43"),
        ("Bearer " + "a" * 513, "has 513 characters"),
        (f"Bearer {SECRETS[Scope.ADMIN].upper()}", "not known"),
        (f"Bearer {SECRETS[Scope.ADMIN]}x", "not known"),
        (b"Bearer \xff\xfe" + b"a" * 50, "not known"),
        ("Bearer \u20ac" + "a" * 50, "not known"),
    ],
    # Secrets are drawn anew in each process of the tests; names must not be.
    ids=map(str, range(10)),
)
def test_what_is_no_token_of_the_servers_is_refused_without_being_repeated(
    given: str | bytes, why: str
) -> None:
    with pytest.raises(Unauthenticated, match=why) as caught:
        guard().check(INFER, given)
    assert SECRETS[Scope.ADMIN] not in str(caught.value)


def test_the_scheme_is_read_in_any_case_and_a_header_as_text_or_bytes() -> None:
    secret = SECRETS[Scope.INFERENCE]
    for given in (f"bearer {secret}", f"BEARER  {secret}", f" Bearer {secret} "):
        guard().check(INFER, given)
        guard().check(INFER, given.encode())


def test_a_secret_shorter_than_256_bits_is_refused_even_if_the_file_has_its_hash() -> None:
    weak = Guard(
        [Token("weak", digest_of("password"), frozenset({Scope.ADMIN}))], open_health=False
    )

    with pytest.raises(Unauthenticated, match="8 characters"):
        weak.check(INFER, "Bearer password")


def test_a_good_header_is_remembered_for_its_method_until_the_tokens_change() -> None:
    ours = guard()
    good = header(Scope.INFERENCE).encode()
    assert good not in ours.passed(INFER)

    ours.check(INFER, good)

    assert good in ours.passed(INFER)
    assert good not in ours.passed(LOAD)
    ours.replace(token for token in tokens() if token.name != "inference")
    assert good not in ours.passed(INFER)
    with pytest.raises(Unauthenticated):
        ours.check(INFER, good)
    ours.check(INFER, header(Scope.ADMIN))
    ours.replace(tokens())
    ours.check(INFER, good)


def test_a_bad_header_is_never_remembered() -> None:
    ours = guard()

    for given in (f"Bearer {make_token()}", "Bearer short", header(Scope.REPOSITORY)):
        with pytest.raises(HeadraceError):
            ours.check(INFER, given)

    assert not ours.passed(INFER)


def test_what_is_remembered_is_bounded() -> None:
    """One token can be sent in many headers: the scheme's case, and spaces."""
    ours = guard()

    for count in range(module._PASSED_MAX + 10):
        ours.check(INFER, f"Bearer{' ' * (count + 1)}{SECRETS[Scope.INFERENCE]}")

    assert len(ours.passed(INFER)) == 10


def test_a_method_that_is_not_in_the_table_is_never_served() -> None:
    with pytest.raises(MethodUnknown):
        guard(open_health=True).check("/some.Other/Method", header(Scope.ADMIN))
    with pytest.raises(Unauthenticated):
        guard(open_health=True).check("/some.Other/Method", None)
