"""A dataset and a start in a network → what comes after it, trained on stored maps."""
