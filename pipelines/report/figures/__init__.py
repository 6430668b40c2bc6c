"""Records of a report → figures, as SVG in the colours of the page."""
