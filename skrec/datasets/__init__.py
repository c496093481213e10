"""Data sets of ratings: synthetic ones, MovieLens, and conversion of other forms."""

from ._arrow import from_arrow
from ._matrix import from_matrix
from ._movielens import fetch_movielens
from ._synthetic import make_ratings

__all__ = ["fetch_movielens", "from_arrow", "from_matrix", "make_ratings"]
