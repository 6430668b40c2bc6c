"""A network → its traced graph, the layers in it, and the part of it that gives their codes."""
