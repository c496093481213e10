"""Ratings to try things on: synthetic, MovieLens, and from matrices of your own."""

from ._matrix import from_matrix
from ._movielens import fetch_movielens
from ._synthetic import make_ratings

__all__ = ["fetch_movielens", "from_matrix", "make_ratings"]
