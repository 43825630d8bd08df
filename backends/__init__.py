"""Backends: where models are run, timed, trained or tuned."""
