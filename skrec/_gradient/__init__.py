"""Gradient solvers: mini-batches, networks, and the folding in of further rows."""
