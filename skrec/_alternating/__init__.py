"""Alternating solvers: als, vb and gibbs, and the posterior that they leave."""
