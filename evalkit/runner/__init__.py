"""The run: from options through worker processes to a journal."""
