"""Tests of `passes.length`."""
