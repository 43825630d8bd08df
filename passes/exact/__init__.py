"""Rewrites that change no output."""
