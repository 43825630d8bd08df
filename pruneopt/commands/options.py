"""Options that several commands have."""

from __future__ import annotations

from typing import Any

import click


class Share(click.ParamType):  # type: ignore[type-arg]
    """A share to keep."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """A number in (0, 1]."""
        try:
            share = float(value)
        except ValueError:
            self.fail(f"'{value}' is not a number", param, ctx)
        if not 0 < share <= 1:
            self.fail(f"{value} is not in (0, 1]; it is the share to keep", param, ctx)
        return share


SHARE = Share()
JSON = click.option("--json", "as_json", is_flag=True, help="Print as JSON on stdout.")
CALIB = click.option("--calib", metavar="FILE.npz|DIR|MODULE:FUNCTION", help="Real inputs.")
THREADS = click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of the runtime."
)
SEED = click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
KEEP = click.option(
    "--keep", multiple=True, metavar="PATTERN", help="Tensors or nodes that must not change; repeatable."
)
MODEL = click.argument("model", metavar="MODEL")
VERBOSE = click.option("-v", "--verbose", is_flag=True, help="Progress as lines, and more of the result.")
QUIET = click.option("-q", "--quiet", is_flag=True, help="No table, no progress.")
