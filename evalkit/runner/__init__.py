"""From options through worker processes to a journal."""
