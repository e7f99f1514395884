"""The command itself: settings in, findings out, and the exit status."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from ..errors import UsageError
from .examine import examine
from .finding import Finding, Setup, Status, ok, problem
from .report import as_json, print_table
from .software import can_ask_about_serving

if TYPE_CHECKING:
    from ..settings import Settings

Flags = Mapping[str, str | Sequence[str] | None]


def doctor(
    *, config: str | None, flags: Flags, sets: Iterable[str] = (), is_json: bool = False
) -> int:
    """Look at everything and print what was found; 1 where there is a problem, else 0.

    Args:
        config: The settings file that the command line names.
        flags: What its flags say of [server].
        sets: Its `NAME.SETTING=VALUE` items.
        is_json: Whether to print JSON.
    """
    if can_ask_about_serving():
        from .. import logs  # noqa: PLC0415 - the server's extra brings it.

        # What the parts that are asked would log is the finding itself.
        logs.configure("json", "critical")
    setup, findings = setup_of(config, flags, sets)
    with Console(stderr=True).status("looking at this machine"):
        findings += examine(setup)
    if is_json:
        print(as_json(findings))  # noqa: T201 - the answer.
    else:
        print_table(findings, sys.stdout)
    return int(any(finding.status is Status.PROBLEM for finding in findings))


def setup_of(config: str | None, flags: Flags, sets: Iterable[str]) -> tuple[Setup, list[Finding]]:
    """What `headrace serve` would run with, and a finding about its settings.

    Settings that cannot be used are a problem, and the defaults are looked at instead.
    """
    if not can_ask_about_serving():
        # Without the server's extra there is nothing to set.
        return Setup(), []
    from ..settings import read_settings  # noqa: PLC0415 - the extra brings it.
    from ..settings.sources import config_path  # noqa: PLC0415

    try:
        settings = read_settings(config=config, flags=flags, sets=sets)
    except UsageError as error:
        finding = problem("settings", str(error), "mend it; headrace config shows what holds")
        return _setup(read_settings(config=os.devnull, environ={})), [finding]
    path = config_path(config, os.environ)
    where = f"{path} is read" if path else "no headrace.toml is here"
    return _setup(settings), [ok("settings", f"{where}; headrace config shows what holds")]


def _setup(settings: "Settings") -> Setup:
    server = settings.server
    return Setup(
        tracking_uri=server.tracking_uri,
        cache_dir=server.cache_dir,
        host=server.host,
        port=server.port,
        metrics_port=server.metrics_port,
        device=server.device,
        transport=server.transport,
        trusted_network=server.trusted_network,
        arena_bytes_max=server.arena_bytes_max,
        tls_cert=settings.tls.cert,
        tls_key=settings.tls.key,
        tls_client_ca=settings.tls.client_ca,
        tokens=settings.auth.tokens,
        is_confining=settings.is_confining,
        must_confine=settings.sandbox.required,
    )
