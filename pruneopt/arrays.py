"""Arrays of any type and shape, and batches of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]
Feeds = Mapping[str, npt.NDArray[Any]]  # input name -> value
