"""Errors whose message is the one sentence that a user reads."""

from __future__ import annotations


class PruneoptError(Exception):
    """Something could not be done; nothing was written."""

    exit_code = 1

    def __init__(self, message: str = "", **details: object) -> None:
        """`details` go to `--json` beside the message."""
        super().__init__(message)
        self.details = details


class UsageError(PruneoptError):
    """The request itself makes no sense: a wrong option, a value out of range."""

    exit_code = 2


class TooLargeError(PruneoptError):
    """A model does not fit into one protobuf message (2 GB); `Model.save` to a temporary file instead."""
