"""Datasets → image lists, and their batches of decoded images."""
