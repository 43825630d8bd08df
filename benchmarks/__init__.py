"""Measurements of pruneopt on whole folders of models; not installed with the package."""
