"""Turning keep-masks into a smaller graph, and into the masked original it must equal."""
