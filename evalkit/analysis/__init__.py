"""From run folders to numbers: rows with intervals, comparisons, published tables."""
