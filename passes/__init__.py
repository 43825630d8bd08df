"""The passes: what removes, changes and checks. `Pipeline([Width(macs=0.6), Repair()]).run(model, calib=batches)`."""

from pruneopt.passes.base import Outcome
from pruneopt.passes.context import Context
from pruneopt.passes.depth import Depth
from pruneopt.passes.embedding import Embedding
from pruneopt.passes.factor import Factor
from pruneopt.passes.joint import Joint
from pruneopt.passes.learn import Learn
from pruneopt.passes.length import Length
from pruneopt.passes.lowrank import LowRank
from pruneopt.passes.merge import Merge
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.recover import Recover
from pruneopt.passes.repair import Repair
from pruneopt.passes.rotate import Rotate
from pruneopt.passes.simplify import Simplify
from pruneopt.passes.sparsify import Sparsify
from pruneopt.passes.tolerance import Tolerance
from pruneopt.passes.unmerge import Unmerge
from pruneopt.passes.unshare import Unshare
from pruneopt.passes.untie import Untie
from pruneopt.passes.verify import Verify
from pruneopt.passes.width import Width

__all__ = [
    "Context",
    "Depth",
    "Embedding",
    "Factor",
    "Joint",
    "Learn",
    "Length",
    "LowRank",
    "Merge",
    "Outcome",
    "Pipeline",
    "Recover",
    "Repair",
    "Rotate",
    "Simplify",
    "Sparsify",
    "Tolerance",
    "Unmerge",
    "Unshare",
    "Untie",
    "Verify",
    "Width",
]
