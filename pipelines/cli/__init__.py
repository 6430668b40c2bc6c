"""The words of a command line → a command that runs."""
