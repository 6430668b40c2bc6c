"""Codes of a layer, wherever they are → an array in memory, or a file that is mapped into it."""
