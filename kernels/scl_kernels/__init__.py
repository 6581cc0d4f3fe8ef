"""Triton kernels of Semantic Completion Learning, each beside the plain PyTorch function that defines it.

Every operation is a package of its own that registers itself, see `scl_kernels.registry`.
"""

from scl_kernels.backend import Backend, get_backend, set_backend
from scl_kernels.bias_activation.operation import bias_activation, linear_activation
from scl_kernels.dropout_norm.operation import dropout_add_norm
from scl_kernels.gather_rows.operation import gather_rows
from scl_kernels.infonce.operation import InfoNCEProblem, InfoNCEStatistics, infonce, infonce_statistics
from scl_kernels.masked_gather.operation import CLASS_ROW, MASK_ROW, masked_gather
from scl_kernels.pairwise.duplicates import Duplicates, duplicates_of
from scl_kernels.sigmoid.operation import SigmoidProblem, sigmoid_loss

__all__ = [
    "CLASS_ROW",
    "MASK_ROW",
    "Backend",
    "Duplicates",
    "InfoNCEProblem",
    "InfoNCEStatistics",
    "SigmoidProblem",
    "bias_activation",
    "dropout_add_norm",
    "duplicates_of",
    "gather_rows",
    "get_backend",
    "infonce",
    "infonce_statistics",
    "linear_activation",
    "masked_gather",
    "set_backend",
    "sigmoid_loss",
]
