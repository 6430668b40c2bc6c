"""The name of a network, and its weights → a backbone."""
