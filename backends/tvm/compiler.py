"""From a layer and a schedule to machine code, through TVM and LLVM."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pruneopt.backends.tvm.layer import VERSION, Layer, Schedule, digest
from pruneopt.backends.tvm.packing import Ints, offset_kind
from pruneopt.backends.tvm.target import Target
from pruneopt.backends.tvm.templates.depthwise import Depthwise
from pruneopt.backends.tvm.templates.frame import kernel
from pruneopt.backends.tvm.templates.lookup import Lookup
from pruneopt.backends.tvm.templates.outputs import Outputs
from pruneopt.backends.tvm.templates.positions import Positions

# Merged, the sums that belong into registers would be one array in memory that is allocated at every call; and
# LLVM finds common subexpressions itself, faster.
QUICK = {"tirx.disable_storage_rewrite": True, "tirx.disable_cse_tir": True}
# Half the time of compiling, for arrays that are as small as can be already.
SKIPPED = ["s_tir.CompactBufferAllocation"]
TEMPLATES = {"outputs": Outputs, "positions": Positions, "lookup": Lookup, "depthwise": Depthwise}


@dataclass(frozen=True)
class Plan:
    """One kernel to be compiled: a layer, how it is computed, and for what.

    Two layers of the same shape and schedule share a kernel: their non-zeros are arguments.
    """

    layer: Layer
    schedule: Schedule
    lanes: int

    @property
    def name(self) -> str:
        """A name that is the same wherever the same code is meant."""
        from dataclasses import asdict

        return f"sparse_{digest(VERSION, asdict(self.layer), self.schedule.as_dict(), self.lanes)}"

    def template(self) -> Any:
        return TEMPLATES[self.schedule.template](self.layer, self.schedule, self.lanes)

    def places(self) -> Ints:
        """Where the kernel holds each input of a stretch."""
        return np.array(self.template().places(), np.int64)

    @property
    def offsets(self) -> str:
        """The type of places."""
        return offset_kind(self.places())

    @property
    def scratch(self) -> int:
        """Floats of working memory that one call needs."""
        return int(self.template().scratch)

    @property
    def tiles(self) -> int:
        """Tiles of one image times groups; of rows, minus the rows in a tile."""
        template = self.template()
        if self.layer.image:
            return int(template.panel.tiles * self.layer.groups)
        return -int(getattr(template, "panel", self.schedule).tile)

    @property
    def spans(self) -> int:
        """The most parts into which the outputs of a tile can be cut."""
        template = self.template()
        return int(template.cut.spans if hasattr(template, "cut") else template.blocks)

    def units(self, n: int) -> int:
        """Units of work of `n` rows or images that are not cut into parts."""
        return n * self.tiles if self.layer.image else -(-n // -self.tiles)

    def function(self, tensors: bool = False) -> Any:
        """The TVM function; `tensors` as in `frame.kernel`."""
        return kernel(self.name, self.lanes, self.offsets, self.template().emit, tensors)


def compiled(plans: Sequence[Plan], target: Target, tensors: bool = False) -> Any:
    """A module with the kernels of all plans. Takes about a second for each."""
    import tvm

    functions = {plan.name: plan.function(tensors) for plan in plans}
    with tvm.transform.PassContext(config=QUICK, disabled_pass=SKIPPED):
        return tvm.compile(tvm.IRModule(functions), target=target.tvm())


def object_file(plan: Plan, target: Target, folder: Path) -> Path:
    """The object file of one kernel in `folder`, written where it is not there; its symbol is `__tvm_ffi_<name>`."""
    path = folder / f"{plan.name}_{digest(version('apache-tvm'), target.key)}.o"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{os.getpid()}_{path.name}")
        compiled([plan], target).mod.write_to_file(str(part), "o")
        part.replace(path)
    return path
