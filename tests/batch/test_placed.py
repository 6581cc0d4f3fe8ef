"""A batch in one block of memory is the batch, moves by one copy, and shares what it shared."""

import pytest
import torch

from sclds.config import LossesConfig
from tests.batch.leaves import assert_equal_batches
from tests.model.samples import ALL, pack_samples
from tests.model.test_step import MIXED

LOSSES = {"all": ALL, "hard": ALL.model_copy(update={"itm_negatives": "hard"}), "none of a kind": LossesConfig(mlm=0)}


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_in_one_block_is_the_batch(name):
    batch = pack_samples(MIXED, LOSSES[name])
    block = batch.in_one_block()
    assert_equal_batches(block, batch)
    tensors = block._host_tensors()
    assert len(tensors) == len(batch._host_tensors())
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.nbytes}) == 1
    assert all(tensor.data_ptr() % 16 == 0 for tensor in tensors if tensor.nbytes)
    assert block.nbytes == batch.nbytes
    assert block.lengths is batch.lengths


def test_moving_a_block_copies_once_and_gives_the_same(monkeypatch):
    batch = pack_samples(MIXED, ALL)
    block, copies = batch.in_one_block(), []
    counting: list[bool] = []
    move = torch.Tensor.to

    def counted(self, *args, **kwargs):
        if args and isinstance(args[0], torch.device) and counting:
            copies.append(self.nbytes)
        return move(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", counted)
    device = torch.device("cpu")
    for dtype in (None, torch.bfloat16):
        copies.clear()
        counting.append(True)
        moved = block.to(device, dtype)
        counting.clear()
        assert copies == [block.text.ids.untyped_storage().nbytes()]
        assert_equal_batches(moved, batch.to(device, dtype))
        assert moved.vision.patches.dtype == (dtype or batch.vision.patches.dtype)
        assert moved.text.ids.dtype == torch.int64


def test_what_is_on_a_device_already_stays_there():
    batch = pack_samples(MIXED, ALL)
    there = torch.empty_like(batch.vision.patches, device="meta")
    object.__setattr__(batch.vision, "patches", there)
    block = batch.in_one_block()
    assert block.vision.patches is there
