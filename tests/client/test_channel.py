"""Where a client connects to."""

import pytest

from headrace_client.channel import channel_options, channel_target


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("127.0.0.1:8001", "127.0.0.1:8001"),
        ("models.example.org", "models.example.org:8001"),
        ("grpc://models.example.org:9000", "models.example.org:9000"),
        ("grpcs://models.example.org", "models.example.org:8001"),
        ("[::1]:9000", "[::1]:9000"),
        ("[::1]", "[::1]:8001"),
        ("unix:/run/headrace.sock", "unix:/run/headrace.sock"),
        ("unix:headrace.sock", "unix:headrace.sock"),
        ("unix:///run/headrace.sock", "unix:///run/headrace.sock"),
        (f"unix:/{'x' * 106}", f"unix:/{'x' * 106}"),
        ("unix-abstract:headrace", "unix-abstract:headrace"),
        ("dns:///models:9000", "dns:///models:9000"),
    ],
)
def test_a_target_is_a_host_with_or_without_a_port_or_what_grpc_resolves(
    given: str, expected: str
) -> None:
    assert channel_target(given) == expected


@pytest.mark.parametrize(
    "given",
    [
        "",
        "host:",
        "host:port",
        "host:70000",
        "http://host:8001",
        "grpcss://host",
        "grpc://grpcs://host",
        "::1",
        "host:80/path",
        "a b",
        "grpcs://unix:/run/headrace.sock",
    ],
)
def test_what_is_no_address_is_refused_by_name(given: str) -> None:
    with pytest.raises(ValueError, match="expected host:port or unix:path") as caught:
        channel_target(given)
    assert repr(given) in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("unix:", "expected unix:path, without a comma"),
        ("unix:/", "expected unix:path, without a comma"),
        ("unix://run/headrace.sock", "expected unix:path, without a comma"),
        ("unix:/run/a,/run/b", "expected unix:path, without a comma"),
        (f"unix:/{'x' * 107}", "has 108 bytes, and that of a Unix socket 107 at most"),
        (f"unix:/{'é' * 54}", "has 109 bytes"),
    ],
)
def test_a_path_that_no_unix_socket_has_is_refused_by_name(given: str, said: str) -> None:
    with pytest.raises(ValueError, match="cannot connect") as caught:
        channel_target(given)
    assert repr(given) in str(caught.value)
    assert said in str(caught.value)


def test_the_message_limit_holds_both_ways() -> None:
    options = dict(channel_options(1234))

    assert options["grpc.max_send_message_length"] == 1234
    assert options["grpc.max_receive_message_length"] == 1234
