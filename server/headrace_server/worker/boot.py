"""Boot: a worker under the Python of another environment.

`python -I boot.py CONTRACT ARGUMENTS...`, where CONTRACT is the directory of the package headrace.
Our two packages are found where they lie; nothing else that is installed beside them is: frameworks
come from the other environment.
"""

import importlib.util
import runpy
import sys
from pathlib import Path


def main() -> None:
    """Make our packages importable, and become the worker."""
    contract = Path(sys.argv.pop(1))
    ours = Path(__file__).resolve().parents[1]
    for folder in (contract, ours):
        spec = importlib.util.spec_from_file_location(
            folder.name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None, "a package of ours has a file that can be imported"
        assert spec.loader is not None, "and that file a loader"
        module = importlib.util.module_from_spec(spec)
        sys.modules[folder.name] = module
        spec.loader.exec_module(module)
    runpy.run_module("headrace_server.worker", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
