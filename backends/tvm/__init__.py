"""Sparse kernels compiled by TVM, run by ONNX Runtime.

`sites` finds the layers whose weights are mostly zeros, `packing` lays their non-zeros out, `templates` says how
a kernel computes, `tuner` picks the knobs, `library` links the kernels into one file that ONNX Runtime loads,
and `rewriting` puts them into the graph.
"""
