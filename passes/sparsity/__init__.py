"""Single weights that become zero: where zeros may stand, which weights go, and what the others make up for."""
