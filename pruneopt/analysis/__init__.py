"""Dependency analysis: which axes of which tensors must shrink together."""
