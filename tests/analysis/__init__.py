"""Tests of the axis algebra, the rules and the inference."""
