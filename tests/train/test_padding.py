"""ZeRO-3 pads the last partitions of a parameter; what stands there must be nothing."""

from types import SimpleNamespace

import pytest
import torch

from sclds.train.engine import clear_padding


@pytest.mark.parametrize(("rank", "filled"), [(0, 3), (1, 2), (2, 0)])
def test_only_what_lies_behind_the_parameter_is_cleared(rank, filled):
    partition = torch.full((3,), float("nan"))
    partition[:filled] = 1.0
    clear_padding(SimpleNamespace(ds_tensor=partition, ds_numel=5), rank)
    assert partition.tolist() == [1.0] * filled + [0.0] * (3 - filled)
