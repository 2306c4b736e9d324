"""Run folders as numbers: rows with intervals, comparisons, published tables."""
