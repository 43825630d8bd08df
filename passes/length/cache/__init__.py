"""Context with a fixed budget: key-value caches that hand on the first and the last tokens only."""
