"""Whether a difference is more than chance: Student's paired t-test, and Holm's correction for several of them.

A test by permuting signs could not do: of five seeds it has 32 outcomes, so that its p never falls below 1/16.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Paired:
    """A mean difference."""

    mean: float
    low: float
    """Of the 95 % confidence interval, not corrected for other tests; nan for one value."""
    high: float
    p: float
    """Two-sided, of the hypothesis that the mean is 0; nan for one value."""


def paired(differences: Sequence[float]) -> Paired:
    """Test the differences of pairs, taken to be normal (Student's t with one degree of freedom less than there are).

    Args:
        differences: One a pair, at least one.
    """
    mean, count = statistics.mean(differences), len(differences)
    if count < 2:
        return Paired(mean, math.nan, math.nan, math.nan)
    error = statistics.stdev(differences) / math.sqrt(count)
    half = _critical(count - 1) * error
    p = two_sided_p(mean / error, count - 1) if error else float(mean == 0)
    return Paired(mean, mean - half, mean + half, p)


def two_sided_p(t: float, freedom: int) -> float:
    """Return the chance that |T| is at least |t|, by the finite series of Abramowitz & Stegun 26.7.3 and 26.7.4.

    Args:
        t: Student's statistic.
        freedom: Degrees of freedom, at least 1.
    """
    angle = math.atan2(abs(t), math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = cosine if odd else 1.0, 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * k / (k + 1)
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return max(0.0, 1 - within)


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values that hold for all tests together (Holm 1979): the k-th smallest of m times m − k + 1.

    A p-value that is not a number stays one and counts for no test.
    """
    order = sorted((i for i, p in enumerate(values) if not math.isnan(p)), key=lambda i: values[i])
    adjusted, least = list(values), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * values[i]))
        adjusted[i] = least
    return adjusted


def _critical(freedom: int, share: float = 0.05) -> float:
    """Return the t beyond which `share` of Student's distribution lies, both sides together, by bisection."""
    low, high = 0.0, 1e3
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, freedom) > share else (low, middle)
    return high
