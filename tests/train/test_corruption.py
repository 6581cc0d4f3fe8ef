"""Bits that change by themselves; the real engine's are flipped in `test_zero.py`, in all stages and precisions."""

from types import SimpleNamespace

import pytest
import torch

from sclds.train import corruption
from sclds.train.corruption import PARTS, CorruptionError, MemoryCheck, Probe, bit_sums
from tests.train import test_spikes
from tests.train.one_process import OneProcess
from tests.train.synthetic import tiny_config


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8])
@pytest.mark.parametrize(("first", "size"), [(0, 1), (0, 64), (1, 63), (3, 17)])
def test_any_flipped_bit_changes_the_sum(dtype, first, size):
    whole = torch.arange(first + size).to(dtype)
    tensor = whole[first:]
    before = bit_sums([tensor])
    raw = tensor.view(torch.uint8)
    for place in range(0, len(raw), 7):
        for bit in range(8):
            raw[place] ^= 1 << bit
            assert not torch.equal(bit_sums([tensor]), before), (place, bit)
            raw[place] ^= 1 << bit
    assert torch.equal(bit_sums([tensor]), before)


class Engine:
    """A plain engine of ZeRO stage 0: two micro-batches a step."""

    def __init__(self):
        torch.manual_seed(0)
        self.module = torch.nn.Linear(5, 3)
        self.optimizer = torch.optim.AdamW(self.module.parameters())
        self.passes = 0

    def __call__(self, rows):
        return self.module(rows)

    def backward(self, loss):
        loss.backward()
        self.passes += 1

    def is_gradient_accumulation_boundary(self):
        return self.passes % 2 == 0

    def step(self):
        if self.is_gradient_accumulation_boundary():
            self.optimizer.step()
            self.optimizer.zero_grad()


def steps(memory, count, flip=None, at=(3, 1)):
    """Take steps; `flip` is called in the one and before the pass that `at` names."""
    for step in range(count):
        for index in range(2):
            loss = memory(torch.ones(2, 5) * step).square().sum()
            if flip and (step, index) == at:
                flip(memory)
            memory.backward(loss)
            memory.step()


def flip_of(part):
    def flip(memory):
        tensor = {
            "weights": lambda: memory.module.weight.data,
            "the optimizer's state": lambda: memory.optimizer.state[memory.module.bias]["exp_avg_sq"],
            "gradients": lambda: memory.module.weight.grad,
        }[part]()
        tensor.view(-1).view(torch.int32)[1] ^= 1 << 12

    return flip


@pytest.mark.parametrize("part", PARTS)
def test_a_flip_between_writes_is_found_and_named(part):
    memory = MemoryCheck(Engine(), OneProcess())
    memory.begin(0)
    steps(memory, 5, flip_of(part))
    told = memory.found(5)
    assert told.startswith("bits changed by themselves between steps 0 and 5: ")
    assert f"{part} of rank 0 on " in told
    steps(memory, 2)
    assert memory.found(7) is None, "what is found is found once"


class Sharded:
    """What of ZeRO-3's engine in fp32 holds weights: two copies of two flat tensors, and no state yet."""

    def __init__(self, dtype=torch.float32):
        computed = [torch.arange(5, dtype=dtype), torch.arange(3, dtype=dtype)]
        self.optimizer = SimpleNamespace(
            fp16_partitioned_groups_flat=computed,
            fp32_partitioned_groups_flat=[each.float().clone() for each in computed],
            grad_partitions_flat_buffer=torch.empty(0),
            optimizer=SimpleNamespace(state={}),
        )

    def is_gradient_accumulation_boundary(self):
        return True

    def step(self):
        computed, kept = self.optimizer.fp16_partitioned_groups_flat, self.optimizer.fp32_partitioned_groups_flat
        for one, other in zip(computed, kept, strict=True):
            other += 1
            one.copy_(other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", ["fp16_partitioned_groups_flat", "fp32_partitioned_groups_flat"])
def test_a_flip_in_either_copy_of_the_weights_is_found(which, dtype, monkeypatch):
    read = []
    monkeypatch.setattr(corruption, "bit_sums", lambda tensors: read.append(len(tensors)) or bit_sums(tensors))
    memory = MemoryCheck(Sharded(dtype), OneProcess())
    memory.begin(0)
    for step in (1, 2):
        memory.step()
        assert memory.found(step) is None
    assert sum(read) == (16 if dtype == torch.float32 else 28), "in fp32 both are read half as often"
    tensor = getattr(memory.optimizer, which)[1]
    tensor.view(torch.int32 if tensor.element_size() == 4 else torch.int16)[2] ^= 1
    memory.step()
    assert "weights of rank 0 on " in memory.found(3)


def test_ten_thousand_clean_passes_raise_no_alarm_and_change_nothing():
    engine, plain = Engine(), Engine()
    memory = MemoryCheck(engine, OneProcess())
    memory.begin(0)
    for number in range(50):
        steps(memory, 10)
        steps(plain, 10)
        assert memory.found(number) is None
    assert torch.equal(engine.module.weight, plain.module.weight)


def test_a_run_ends_before_changed_bits_reach_a_checkpoint(tmp_path, monkeypatch):
    """The step of `test_spikes.py` writes weights beside the engine."""
    with pytest.raises(CorruptionError, match="weights of rank 0 on"):
        test_spikes.run(tmp_path, monkeypatch, set(), guards={})
    assert "corruption" in test_spikes.kinds(tmp_path)
    assert not list((tmp_path / "checkpoints").glob("step-*"))


class Ranks(OneProcess):
    """Three ranks, of which this is the first; the others answer as they are told."""

    world_size = 3

    def __init__(self, others):
        self.others = others

    def gather_objects(self, value):
        return [value, *(other(value) for other in self.others)]


class Plain:
    """What a batch and an engine need for a probe."""

    def to(self, device, dtype):
        return torch.ones(2, 5)


def test_a_rank_that_computes_other_bits_is_named():
    linear = torch.nn.Linear(5, 3)
    engine = lambda rows: {"a": linear(rows), "temperature": torch.tensor(0.07)}  # noqa: E731
    same = lambda value: value  # noqa: E731
    assert Probe(tiny_config(), engine, Ranks([same, same])).found(4, Plain()) is None
    told = Probe(tiny_config(), engine, Ranks([same, lambda value: value[::-1]])).found(4, Plain())
    assert told.startswith("the same forward at step 4 gives other bits on rank 2 on ")


def test_one_process_computes_twice():
    results = iter([1.0, 1.0, 1.0, 1.5])
    probe = Probe(tiny_config(), lambda rows: {"a": torch.tensor(next(results))}, OneProcess())
    assert probe.found(4, Plain()) is None
    assert "gives other bits" in probe.found(8, Plain())
