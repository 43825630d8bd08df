"""`python -m benchmarks.counted_command SHARE.json ARGUMENT...`: `pruneopt ARGUMENT...`, CPU counted.

Exits as that does; SHARE.json gets the CPU seconds of both, start-up and imports included.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks.runtime_share import counted
from pruneopt.cli import main


def run(target: str, arguments: list[str]) -> int:
    """Run the command line on `arguments`; returns its exit code."""
    sys.argv = ["pruneopt", *arguments]
    with counted() as share:
        code = main(arguments)
    figures = {"own_cpu": time.process_time() - share.cpu, "runtime_cpu": share.cpu, **vars(share)}
    Path(target).write_text(json.dumps(figures))
    return code


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
