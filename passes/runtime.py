"""What passes need of a runtime: the protocols that a backend meets. `backends.ort` is the one that ships."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from pruneopt.analysis.observe import Observer
from pruneopt.arrays import Array, Feeds
from pruneopt.model import Model

Progress = Callable[[str], None]


class Session(Protocol):
    """A loaded model."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """Output name -> value."""


class Timing(Protocol):
    """A latency in milliseconds, its ratio to that of the first model of the same rounds, and the ratio's spread."""

    @property
    def median_ms(self) -> float: ...
    @property
    def ratio_to_first(self) -> float: ...
    @property
    def spread(self) -> float: ...


class Kernels(Protocol):
    """Milliseconds of each kernel by name, in order, and of the whole run; the share that was not disturbed."""

    @property
    def times(self) -> list[tuple[str, float]]: ...
    @property
    def whole(self) -> float: ...
    @property
    def own(self) -> float: ...


class Timings(Protocol):
    """Kernels that have been timed before on this machine: signature -> milliseconds."""

    def get(self, kernels: Sequence[str]) -> dict[str, float]:
        """Those that are known."""

    def put(self, found: Mapping[str, float]) -> None:
        """Keep measurements for other runs."""


class ZeroKernels(Protocol):
    """How fast a model with zeros is once it has kernels for them."""

    def times(self, model: Model, feeds: Feeds, tell: Progress) -> dict[str, float]:
        """Milliseconds of the kernel of each layer with zeros, by the name of what its node makes."""

    def ratio(self, dense: Model, sparse: Model, feeds: Feeds, tell: Progress) -> float:
        """Latency of a sparse model with its kernels as a share of the dense one's, in turns."""


class Backend(Protocol):
    """What loads, runs and times models."""

    def session(
        self, model: Model, outputs: Sequence[str] | None = None, threads: int = 1, optimize: bool = True
    ) -> Session:
        """Load a model."""

    def observer(self, model: Model, wanted: Collection[str] = ()) -> Observer:
        """Load a model so that the shapes of all and the values of some tensors can be seen."""

    def compare(
        self, a: Model, b: Model, feeds: Feeds, threads: int = 1, seconds: float = 1.0
    ) -> tuple[Timing, Timing]:
        """Latency of two models on the same feeds, measured in turns for about so many seconds."""

    def kernels(self, model: Model, feeds: Feeds, threads: int = 1, seconds: float = 0.2) -> Kernels:
        """Where the time of one run goes, each way of timing it for about so many seconds."""

    def timings(self, threads: int = 1) -> Timings:
        """What has been measured before on this machine."""

    def zeros(self, target: str, threads: int = 1) -> ZeroKernels:
        """Kernels for sparse weights. Raises PruneoptError where what compiles them is missing."""
