"""Rows of a packed buffer."""
