"""What computes each op in PyTorch: small functions by subject, in the table of `backends.torch.table`."""
