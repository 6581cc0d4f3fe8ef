"""The pairwise sigmoid loss over the global batch."""
