"""Codes and labels → linear classifiers whose C is chosen by cross-validation."""
