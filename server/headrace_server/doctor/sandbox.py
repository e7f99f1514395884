"""Sandbox: whether this host can confine worker processes."""

from collections.abc import Iterator

from ..wall import lacks, landlock
from .finding import Finding, Setup, ok, problem, warning


def check_sandbox(setup: Setup) -> Iterator[Finding]:
    """Yield a finding about what the kernel has for it, and whether that is asked for."""
    missing = lacks()
    if not missing:
        how = "are" if setup.is_confining else "can be"
        yield ok("sandbox", f"workers {how} confined, by Landlock {landlock.version()} and seccomp")
        return
    text = f"workers cannot be confined wholly: this host lacks {', and '.join(missing)}"
    remedy = "use a kernel, and a container's profile, with it: see docs/security.md"
    if setup.is_confining and setup.must_confine:
        yield problem("sandbox", text, remedy)
    elif setup.is_confining:
        yield warning("sandbox", text, remedy)
    else:
        yield ok("sandbox", text)
