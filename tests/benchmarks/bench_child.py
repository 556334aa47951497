"""What runs in a contestant's own process: `bench_child.py PART ARGUMENTS`, the arguments a JSON object.

It prints one line of JSON. The parts' own modules have a `child` function each, which does the work.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Final

MODULES: Final = {
    "exchange": "bench_exchange",
    "pending": "bench_pending",
    "memory": "bench_memory",
    "junk": "bench_junk",
    "flood": "bench_flood",
    "drain": "bench_drain",
    "profile": "bench_profile",
    "names": "bench_names",
    "million": "million",
}


def raise_file_limit() -> None:
    """Let a contestant have as many sockets as it is allowed: some open one for each request."""
    try:
        import resource
    except ImportError:
        return
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> None:
    """Do one part's work."""
    raise_file_limit()
    part = importlib.import_module(MODULES[sys.argv[1]])
    try:
        figures = part.child(**json.loads(sys.argv[2]))
    except Exception as error:
        traceback.print_exc()
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        # The last line is what tables show.
        sys.exit(f"{type(error).__name__}: {error}".replace("\n", " "))
    print(json.dumps(figures), flush=True)
    os._exit(0)  # what a part leaves open on purpose need not be closed piece by piece


if __name__ == "__main__":
    main()
