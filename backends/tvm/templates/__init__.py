"""How a sparse kernel computes: one file for each way, written with TVM's script builder.

Every kernel has the same arguments, so that one caller serves all of them: see `frame`.
"""
