"""`infonce` as one process uses it that holds the whole batch."""

import torch

from scl_kernels import InfoNCEProblem, infonce, infonce_statistics


def infonce_of_one(a, b, temperature, weight=None, *, backend="auto"):
    """Return the loss; the mean over samples unless `weight` is given."""
    if weight is None:
        weight = torch.full((len(a),), 1 / max(1, len(a)), dtype=torch.promote_types(a.dtype, torch.float32))
    problem = InfoNCEProblem(a, b, a.detach(), b.detach(), temperature, 0, weight.to(a.device))
    statistics = infonce_statistics([problem], backend=backend)
    return infonce([problem], [statistics[0].row_lse], [statistics[0].col_lse], statistics, backend=backend)[0]
