"""`python -m headrace_server.cli`: the same as `headrace`."""

from . import main

main()
