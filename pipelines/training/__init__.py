"""Maps, a start and a setting → a trained network, and what it answers."""
