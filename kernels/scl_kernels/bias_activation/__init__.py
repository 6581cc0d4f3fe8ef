"""Bias and activation behind a matrix product in one pass."""
