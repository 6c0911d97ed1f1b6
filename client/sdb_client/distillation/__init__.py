"""Students that learn from soft labels. Needs the extra `torch`."""
