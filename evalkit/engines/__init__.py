"""Where episodes run: local worker processes."""
