"""The one definition of a hit, for accuracies in training and for retrieval."""

from torch import Tensor


def ranks(scores: Tensor, own: Tensor) -> Tensor:
    """Return the place of each row's right candidate among all of them, by score; 1 is best.

    A tie counts against it, and so does a score that is not a number: a model that gives everything the same score
    ranks last.

    Args:
        scores: (N, C) of C candidates.
        own: (N,) int64 number of the right one.

    Returns:
        (N,) int64 in 1 … C: how many candidates, itself included, do not score less.
    """
    return (~(scores < scores.gather(1, own[:, None]))).sum(1)


def hits(scores: Tensor, own: Tensor, first: int = 1) -> Tensor:
    """Return (N,) bool, whether the right candidate of a row is among the `first`; one of score NaN never is."""
    return (ranks(scores, own) <= first) & ~scores.gather(1, own[:, None]).isnan().squeeze(1)
