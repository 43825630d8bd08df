"""What needs gradients: a model as a PyTorch module, losses, gradient statistics and training."""
