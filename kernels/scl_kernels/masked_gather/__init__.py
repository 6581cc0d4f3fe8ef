"""Rows, embeddings and LayerNorm into a packed buffer."""
