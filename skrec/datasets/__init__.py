"""Data sets of ratings: synthetic ones, MovieLens, and conversion of matrices."""

from ._matrix import from_matrix
from ._movielens import fetch_movielens
from ._synthetic import make_ratings

__all__ = ["fetch_movielens", "from_matrix", "make_ratings"]
