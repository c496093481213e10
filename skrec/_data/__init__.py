"""Reading of tables, ids, ratings and weights, and the canonical training rows."""
