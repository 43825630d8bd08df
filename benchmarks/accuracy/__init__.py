"""Accuracy after pruning: real models, real data, calibration and evaluation apart (`python -m benchmarks.accuracy`)."""
