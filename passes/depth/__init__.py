"""Removes depth: residual blocks and whole layers."""

from pruneopt.passes.depth.depth import Depth

__all__ = ["Depth"]
