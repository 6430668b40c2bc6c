"""A dataset, or a file of codes → a study: its depths compared, and what belongs to that."""
