"""The file of tokens: what it may hold, and how it is written."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_server.errors import UsageError
from headrace_server.transport.tokens import (
    TOKEN_CHARS_MIN,
    TOKENS_MAX,
    Scope,
    Token,
    append_entry,
    digest_of,
    entry_of,
    make_token,
    parse_tokens,
)

HASH = "sha256:" + "0f" * 32


def parse(text: str) -> tuple[Token, ...]:
    return parse_tokens("tokens.toml", text.encode())


def entry(**changes: str) -> str:
    """An entry as TOML; a key that is given as an empty text is left out."""
    fields = {"name": '"shop"', "hash": f'"{HASH}"', "scopes": '["inference"]', **changes}
    return "[[token]]\n" + "".join(f"{key} = {value}\n" for key, value in fields.items() if value)


@given(
    names=st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", fullmatch=True), unique=True),
    scopes=st.sets(st.sampled_from(Scope), min_size=1),
)
def test_what_is_made_is_read_as_it_was_meant(names: list[str], scopes: set[Scope]) -> None:
    made = {name: make_token() for name in names}
    text = "\n".join(entry_of(token, name, scopes) for name, token in made.items())

    assert parse(text or "token = []") == tuple(
        Token(name, digest_of(token), frozenset(scopes)) for name, token in made.items()
    )


def test_a_token_has_256_random_bits_and_is_not_in_its_entry() -> None:
    first, second = make_token(), make_token()

    assert first != second
    assert len(first.removeprefix("headrace_")) == TOKEN_CHARS_MIN
    assert first.removeprefix("headrace_") not in entry_of(first, "shop", [Scope.ADMIN])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", r"holds no \[\[token\]\]"),
        ("[[token", "is not TOML"),
        ("tokens = 1", "has 'tokens'"),
        ("token = 1", "another form"),
        ("token = [1]", "another form"),
        (entry(name=""), "token 1 has no name"),
        (entry(hash=""), "token 1 has no hash"),
        (entry(scopes=""), "token 1 has no scopes"),
        (entry(scope='"admin"'), "did you mean 'scopes'"),
        (entry(owner='"me"'), "known are name, hash, scopes"),
        (entry(name='"a b"'), "up to 64 letters"),
        (entry(name='""'), "up to 64 letters"),
        (entry(name="1"), "up to 64 letters"),
        (entry(scopes='"inference"'), "a list of inference or repository or admin"),
        (entry(scopes="[]"), "a list of inference or repository or admin"),
        (entry(scopes='["infer"]'), r"scopes=\['infer'\]: expected inference or"),
        (entry(scopes="[[1]]"), "expected inference or"),
        (entry() + entry(), "names 'shop' twice"),
        (entry() + entry(name='"b"'), "'b' has the hash of another token"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        parse(text)
    assert str(caught.value).startswith("tokens.toml")


@pytest.mark.parametrize(
    "weak",
    [
        "secret-in-the-clear",
        "0f" * 32,
        "md5:" + "0f" * 16,
        "sha1:" + "0f" * 20,
        "sha256:" + "0f" * 31,
        "sha256:" + "0F" * 32,
        "$2b$12$" + "a" * 53,
    ],
)
def test_only_a_sha256_is_taken_and_nothing_else_is_shown(weak: str) -> None:
    """What stands there instead may be a secret."""
    with pytest.raises(UsageError, match=r"\(shop\): expected hash to be sha256: and 64") as caught:
        parse(entry(hash=f'"{weak}"'))
    assert weak not in str(caught.value)


def test_a_file_of_more_tokens_than_are_compared_is_refused() -> None:
    many = "\n".join(
        entry(name=f'"t{i}"', hash=f'"sha256:{i:064x}"') for i in range(TOKENS_MAX + 1)
    )

    with pytest.raises(UsageError, match=f"holds {TOKENS_MAX + 1} tokens"):
        parse(many)


def test_a_new_file_is_its_owners_alone_and_an_old_one_keeps_what_it_held(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    append_entry(str(path), entry_of(make_token(), "first", [Scope.ADMIN]))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    os.chmod(path, 0o640)
    path.write_text("# ours\n" + path.read_text().rstrip())
    append_entry(str(path), entry_of(make_token(), "second", [Scope.INFERENCE]))

    assert [token.name for token in parse(path.read_text())] == ["first", "second"]
    assert path.read_text().startswith("# ours\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_file_that_would_be_spoilt_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    added = entry_of(make_token(), "first", [Scope.ADMIN])
    append_entry(str(path), added)

    with pytest.raises(UsageError, match="names 'first' twice"):
        append_entry(str(path), entry_of(make_token(), "first", [Scope.ADMIN]))
    assert path.read_text() == added
    path.write_text("[server]\nport = 1\n")
    with pytest.raises(UsageError, match="has 'server'"):
        append_entry(str(path), added)
    assert path.read_text() == "[server]\nport = 1\n"
    with pytest.raises(UsageError, match=r"cannot write .*: No such file"):
        append_entry(str(tmp_path / "nowhere" / "tokens.toml"), added)


def test_a_name_that_the_file_could_not_hold_is_refused() -> None:
    for name in ("", 'a"b', "a\nb", "-a", "a" * 65):
        with pytest.raises(UsageError, match="cannot name a token"):
            entry_of(make_token(), name, [Scope.ADMIN])


def test_tokens_that_are_added_at_once_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"

    with ThreadPoolExecutor(8) as threads:
        for index in range(32):
            made = entry_of(make_token(), f"t{index}", [Scope.INFERENCE])
            threads.submit(append_entry, str(path), made)

    assert len(parse(path.read_text())) == 32
