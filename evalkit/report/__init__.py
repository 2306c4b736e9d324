"""Results as text for terminals, markdown, CSV, JSON, LaTeX, JUnit and plots."""
