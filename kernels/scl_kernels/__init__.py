"""Triton kernels of Semantic Completion Learning, each beside the plain PyTorch function that defines it."""
