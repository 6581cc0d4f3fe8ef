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


def test_what_stays_on_the_host_stays_when_the_rest_moves():
    batch = pack_samples(MIXED, ALL)
    there = batch.in_one_block().to(torch.device("meta"))
    assert there.text.ids.device.type == "meta"
    assert there.lengths is batch.lengths
    assert there.lengths.text_cu_seqlens.device.type == "cpu"


def test_what_lies_in_several_blocks_moves_tensor_by_tensor_and_does_not_wait(monkeypatch):
    batch = pack_samples(MIXED, ALL)
    assert batch._block() is None
    asked, move = [], torch.Tensor.to

    def noted(self, *args, **kwargs):
        asked.append((args, kwargs))
        return move(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", noted)
    moved = batch.to(torch.device("meta"), torch.bfloat16)
    assert asked
    assert all(kwargs.get("non_blocking") is True and args[0] == torch.device("meta") for args, kwargs in asked)
    assert moved.vision.patches.dtype == torch.bfloat16
    asked.clear()
    batch.in_one_block().to(torch.device("meta"))
    assert [kwargs for args, kwargs in asked if torch.device("meta") in args] == [{"non_blocking": True}]


def test_only_a_pinned_block_is_pinned(monkeypatch):
    asked, empty = [], torch.empty

    def noted(*size, pin_memory, **kwargs):
        asked.append(pin_memory)
        return empty(*size, **kwargs)

    batch = pack_samples(MIXED, ALL)
    monkeypatch.setattr(torch, "empty", noted)
    for pinned in (False, True):
        batch.in_one_block(pinned=pinned)
    assert asked == [False, True]
