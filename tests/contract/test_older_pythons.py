"""Workers run inside a model's own environment, whose Python may be older than the daemon's."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from headrace_server.librarian.environment import _PYTHON_MIN


@pytest.mark.slow
def test_what_a_worker_runs_is_written_for_the_oldest_python_that_it_may_get() -> None:
    script = (
        "import sys, headrace_server.worker.__main__, headrace_server.worker.boot\n"
        "import headrace_server.worker.receiving\n"
        "from pathlib import Path; import headrace_server.adapters as a\n"
        "files = [m.__file__ for n, m in sys.modules.items() if n.startswith('headrace')]\n"
        "files += map(str, Path(a.__file__).parent.glob('*.py'))\n"
        "print('\\n'.join(files))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    files = sorted(set(ran.stdout.split()))

    assert len(files) > 30
    newer = {"Self", "assert_never", "StrEnum", "UTC", "file_digest", "tomllib", "ExceptionGroup"}
    for file in files:
        tree = ast.parse(Path(file).read_text(), feature_version=_PYTHON_MIN)
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert not names & newer, file
