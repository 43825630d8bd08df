"""What a pass is: a frozen dataclass whose fields are its options, and one verb.

`run(model, context)` returns a new model and a report entry. A pass that removes something also returns
its `Claim`: how the input model, masked, must equal the output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from pruneopt.model import Model
from pruneopt.passes.claims import Claim
from pruneopt.passes.context import Context


@dataclass(frozen=True)
class Outcome:
    """What a pass did.

    Attributes:
        model: the new model.
        entry: what the report says of it.
        claim: what has to be proved, if anything was removed.
    """

    model: Model
    entry: dict[str, Any]
    claim: Claim | None = None


class Pass(Protocol):
    """One verb: a model in, a model and a report entry out."""

    def run(self, model: Model, context: Context) -> Outcome:
        """Do it. Raises PruneoptError where it cannot be done; the input model stays as it is."""
