"""Ratings to try things on: synthetic, MovieLens, and from matrices of your own."""

from skrec.datasets._matrix import from_matrix
from skrec.datasets._movielens import fetch_movielens
from skrec.datasets._synthetic import make_ratings

__all__ = ["fetch_movielens", "from_matrix", "make_ratings"]
