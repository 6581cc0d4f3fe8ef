"""What a step draws by itself depends on configuration, seed, step and place alone; what it reports is what it used."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from sclds.batch.split import Split
from sclds.data.keys import seed_of
from sclds.train import step as module
from sclds.train.optimizer import parameter_groups
from sclds.train.schedule import learning_rate_factor
from sclds.train.step import seed_attention_dropout, train_step
from tests.train.synthetic import tiny_config
from tests.train.test_optimizer import Model


def drawn(*key):
    seed_attention_dropout(*key)
    return torch.rand(4).tolist()


def test_dropout_is_keyed_by_seed_step_micro_batch_and_rank():
    keys = list(itertools.product(range(3), repeat=4))
    draws = {tuple(drawn(*key)) for key in keys}
    assert len(draws) == len(keys)
    assert drawn(1, 2, 0, 1) == drawn(1, 2, 0, 1)


def test_the_key_is_the_same_in_every_interpreter():
    """Python's own `hash` promises nothing from one version to the next; a run may go on under another."""
    assert seed_of(7, "dropout", 3, 1, 2) == 4805066166929703369


class Engine:
    """Notes under which seed each forward ran, and with which rates each step was taken."""

    def __init__(self, config):
        self.optimizer = torch.optim.AdamW(parameter_groups(Model(), config.optimizer))
        self.seeds, self.rates = [], []

    def __call__(self, batch, before_fusion=None):
        self.seeds.append(torch.initial_seed())
        return {}

    def backward(self, loss):
        pass

    def step(self):
        self.rates.append({group["name"]: group["lr"] for group in self.optimizer.param_groups})

    def was_step_applied(self):
        return True


class Batch:
    def to(self, device, dtype):
        return self


@pytest.fixture
def gathered(monkeypatch):
    """Take model and losses out of the step; return what was gathered, and for which micro-batches."""
    calls = []

    class FeatureGather:
        def __init__(self, losses, group, sizes):
            self.sent, self.sizes = [], sizes

        def send(self, index, batch, outputs):
            self.sent.append((index, batch))

        def wait(self):
            calls.append((self.sent, self.sizes))
            return calls[-1]

    monkeypatch.setattr(module.StepSizes, "gather", lambda batches, group: tuple(batches))
    monkeypatch.setattr(module, "FeatureGather", FeatureGather)
    monkeypatch.setattr(module, "step_loss", lambda *_: (torch.tensor(1.0), {"total": torch.tensor(1.0)}))
    return calls


def take(config, step=3, rank=0, accumulation=2):
    engine, batches = Engine(config), [Batch() for _ in range(accumulation)]
    group = SimpleNamespace(rank=rank, world_size=2, device="cpu")
    report = train_step(engine, batches, step, config, Split(4, accumulation, 2), group)
    return engine, batches, report


def test_both_passes_of_a_step_run_under_the_seeds_of_their_micro_batch(gathered):
    config = tiny_config(seed=7)
    engine, batches, _ = take(config, step=3, rank=1)
    assert engine.seeds == 2 * [seed_of(7, "dropout", 3, index, 1) for index in range(2)]
    assert gathered == [(list(enumerate(batches)), tuple(batches))]
    others = [take(tiny_config(seed=8)), take(config, step=4), take(config, step=3)]
    assert len({tuple(engine.seeds), *(tuple(other.seeds) for other, _, _ in others)}) == 4


def test_micro_batch_negatives_are_gathered_one_by_one_and_normalized_by_all(gathered):
    engine, batches, _ = take(tiny_config(losses={"negatives": "micro_batch"}))
    assert len(engine.seeds) == 2, "one pass"
    assert gathered == [([place], tuple(batches)) for place in enumerate(batches)]


def test_the_rates_of_the_report_are_those_that_the_step_used(gathered):
    config = tiny_config()
    for step in (0, 1, 4, 9):
        engine, _, report = take(config, step=step)
        factor = learning_rate_factor(step, config.schedule)
        assert {"encoders": 1e-3 * factor, "fusion": 2e-3 * factor, "heads": 5e-3 * factor} == pytest.approx(
            report.rates
        )
        for rates in engine.rates:
            assert {name.removesuffix("-no-decay"): rate for name, rate in rates.items()} == report.rates


def test_what_is_there_before_fusion_is_sent_then_and_the_rest_at_the_end():
    """What travels while fusion runs costs the step nothing; sent afterwards, every rank would wait for it."""
    log = []

    def engine(batch, before_fusion):
        before_fusion("projections")
        log.append("fusion")
        return "all"

    gather = SimpleNamespace(send=lambda *sent: log.append(sent))
    assert module.forward(engine, "batch", 3, gather) == "all"
    assert log == [(3, "batch", "projections"), "fusion", (3, "batch", "all")]
