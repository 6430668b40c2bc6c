"""A comparison → what its score should be compared with, on the same splits."""
