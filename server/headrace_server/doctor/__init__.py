"""Doctor: what keeps this machine from serving, and what to do about it.

Each module asks about one thing and yields Findings; `examine` asks all of them at once. A check
that fails or hangs is a finding itself and takes none of the others along.
"""
