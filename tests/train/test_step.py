"""What a step draws by itself depends on configuration, seed, step and place alone."""

import itertools

import torch

from sclds.data.keys import seed_of
from sclds.train.step import seed_dropout


def drawn(*key):
    seed_dropout(*key)
    return torch.rand(4).tolist()


def test_dropout_is_keyed_by_seed_step_micro_batch_and_rank():
    keys = list(itertools.product(range(3), repeat=4))
    draws = {tuple(drawn(*key)) for key in keys}
    assert len(draws) == len(keys)
    assert drawn(1, 2, 0, 1) == drawn(1, 2, 0, 1)


def test_the_key_is_the_same_in_every_interpreter():
    """Python's own `hash` promises nothing from one version to the next; a run may go on under another."""
    assert seed_of(7, "dropout", 3, 1, 2) == 4805066166929703369
