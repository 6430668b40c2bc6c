"""What was found → JSON, CSV, Markdown and a page."""
