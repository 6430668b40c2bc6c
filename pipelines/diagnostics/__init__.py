"""Codes and scores → how similar images are to ImageNet, what to do, what may be wrong."""
