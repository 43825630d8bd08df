"""What the data that flows through a model looks like: means and second moments of what weights are applied to."""
