"""Results → standard output; progress, warnings and errors → standard error."""
