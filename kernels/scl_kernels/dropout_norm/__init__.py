"""Dropout by counter, residual and LayerNorm in one pass over the rows."""
