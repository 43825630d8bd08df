"""What commands have in common: where they print, how they tell what they do, how many threads they take."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def limit_threads(threads: int) -> None:
    """Linear algebra uses as many threads as the runtime: more of them on a busy machine are much slower."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))


def console(quiet: bool) -> Console:
    from rich.console import Console

    return Console(stderr=True, quiet=quiet)


class Progress:
    """What is being done: one changing line on a terminal, lines with `-v`, nothing elsewhere."""

    def __init__(self, console: Console, verbose: bool) -> None:
        self.console = console
        self.verbose = verbose
        self.status = console.status("load")

    def __enter__(self) -> Progress:
        if self.console.is_terminal and not self.verbose:
            self.status.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.status.stop()

    def __call__(self, text: str) -> None:
        if self.verbose:
            self.console.print(text, highlight=False)
        self.status.update(text)
