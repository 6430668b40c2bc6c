"""A dataset and a backbone → a store that holds all its codes."""
