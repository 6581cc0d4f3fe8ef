"""The precision of sums and statistics, the same for every operation."""

import torch


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums and statistics for inputs of `dtype`: fp64 for fp64, else fp32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
