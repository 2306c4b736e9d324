"""How results are shown: terminal, markdown, CSV, JSON, LaTeX."""
