"""The border of similarity, which pages show without loading a network."""

BORDER = 0.5
"""Value from which a dataset is similar, where the network has batch normalisation."""
