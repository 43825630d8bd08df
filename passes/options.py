"""What options of passes may be: shares, and names out of a list or of a table that third parties add to."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from importlib.metadata import entry_points
from typing import TypeVar

from pruneopt.errors import UsageError

T = TypeVar("T")
BUDGETS = ("macs", "params", "bytes", "memory", "latency")


class Budgeted:
    """A pass with budgets among its options: shares of what the original takes."""

    @property
    def budgets(self) -> dict[str, float]:
        """The budgets that are set."""
        return {name: value for name in BUDGETS if (value := getattr(self, name, None)) is not None}

    @classmethod
    def known_budgets(cls) -> list[str]:
        """The budgets that the pass can keep to."""
        return [name for name in BUDGETS if hasattr(cls, name)]


def check_share(owner: str, name: str, value: float | None, of: str = "to keep", whole: bool = True) -> None:
    """None, or a share in (0, 1], or below 1 where the `whole` makes no sense. Raises UsageError otherwise."""
    if value is not None and not (0 < value < 1 or (whole and value == 1)):
        span = "in (0, 1]" if whole else "between 0 and 1"
        raise UsageError(f"{owner}: {name}={value:g} is not {span}; it is the share {of}")


def check_names(owner: str, kind: str, given: Iterable[str | None], known: Collection[str]) -> None:
    """Names of the list `known`, or None. Raises UsageError otherwise."""
    if unknown := {name for name in given if name is not None}.difference(known):
        raise UsageError(f"{owner}: there is no {kind} '{min(unknown)}'; choose from {', '.join(known)}")


def find_named(kind: str, name: str, table: dict[str, T], group: str) -> T:
    """What a table has under a name; third parties add theirs by entry points of `group`.

    Raises:
        UsageError: it has nothing under that name.
    """
    for entry in entry_points(group=group):
        table.setdefault(entry.name, entry.load())
    if name not in table:
        raise UsageError(f"there is no {kind} '{name}'; choose from {', '.join(sorted(table))}")
    return table[name]
