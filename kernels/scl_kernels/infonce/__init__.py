"""The symmetric InfoNCE loss over the global batch."""
