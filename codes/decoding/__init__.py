"""The bytes of one file → one RGB image."""
