"""The bytes of one file → one RGB image."""

from codes.decoding.decode import decode_file

__all__ = ["decode_file"]
