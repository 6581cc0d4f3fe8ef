"""What `sigmoid_loss` takes, and the checks on it."""

from typing import NamedTuple

from torch import Tensor

from scl_kernels.pairwise.arguments import check_rows, check_weights
from scl_kernels.pairwise.duplicates import Duplicates, Treatment, check_duplicates
from scl_kernels.validation import check_tensor, readable


class SigmoidProblem(NamedTuple):
    """One pairwise sigmoid loss over the global batch, as one rank sees it."""

    a: Tensor
    """(n, D) local rows of one modality, with gradient; n may be 0."""
    b: Tensor
    """(n, D) their partners, with gradient."""
    a_all: Tensor
    """(N, D) the rows `a` of all ranks, constants; the local ones lie at [offset, offset + n)."""
    b_all: Tensor
    """(N, D) the rows `b` of all ranks, constants."""
    scale: Tensor
    """() multiplier of the cosine similarities, greater than 0 (SigLIP's t = exp(t')), learnable."""
    bias: Tensor
    """() added to the logits, learnable."""
    offset: int
    """Index of the first local row in the global batch."""
    weight_all: Tensor
    """(N,) weight of each global row's sum over its pairs, constants (for a mean: 1 / N)."""
    duplicates: Duplicates | None = None
    """Which global rows are no negatives of each other; None where all are."""


def check_problem(problem: SigmoidProblem) -> Treatment:
    """Refuse a problem whose fields do not fit together; return what duplicates are to each other.

    Raises:
        ValueError: A field has the wrong shape, dtype, device or value; the message names it.
    """
    check_rows("problem", problem)
    for name, number in (("scale", problem.scale), ("bias", problem.bias)):
        check_tensor(f"problem.{name}", number, shape=(), device=problem.a.device)
        if readable(number):
            value = float(number.detach())
            if not abs(value) < float("inf") or (name == "scale" and value <= 0):
                bound = " greater than 0" if name == "scale" else ""
                raise ValueError(f"problem.{name} is {value}; expected a finite number{bound}")
    check_weights("problem.weight_all", problem.weight_all)
    return check_duplicates("problem.duplicates", problem.duplicates, problem.a_all.shape[0], problem.a.device)
