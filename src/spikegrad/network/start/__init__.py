"""Initial weights and widths."""
