"""Passes: each takes a model, changes one kind of thing about it, and reports what it did."""
