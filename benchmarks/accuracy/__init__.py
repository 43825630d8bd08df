"""Accuracy after pruning: real models, real data, data to fit and to judge apart (`python -m benchmarks.accuracy`)."""
