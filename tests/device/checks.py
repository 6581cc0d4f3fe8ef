"""The real path on a device: what CUDA would refuse is refused here, and the numbers are the CPU's."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sclds.batch.split import Split
from sclds.config import LossesConfig, OptimizerConfig, ScheduleConfig
from sclds.config.reading import load_config
from sclds.data.keys import generator
from sclds.data.loader import TrainingBatches
from sclds.data.tokenizer import load_tokenizer
from sclds.evaluation.tasks import evaluate
from sclds.losses.communicator import SingleProcess, gather_rows
from sclds.losses.objectives import GlobalFeatures, features_of, step_loss
from sclds.machine.phase_clock import PhaseClock
from sclds.model.scl import SCLModel
from sclds.reference.standalone import modeling_scl
from sclds.reference.standalone.configuration_scl import SCLConfig
from sclds.report.batch_page import page
from sclds.report.pictures import masked_inputs
from sclds.train.corruption import MemoryCheck
from sclds.train.optimizer import parameter_groups
from sclds.train.step import train_step
from tests.device.pretend import PretendTensor, host_copies, host_reads, moved, pretend_device
from tests.model.samples import ALL, model_of, pack_samples
from tests.model.test_step import MIXED

STEPS = {
    "all": ALL,
    "hard": ALL.model_copy(update={"itm_negatives": "hard"}),
    "sigmoid": LossesConfig(contrastive=0, sigmoid=1),
    "economy": LossesConfig(mlm_view="t2"),
    "published": ALL.model_copy(update={"scaling": "published", "published_world_size": 2}),
}


def inside(tensor):
    return tensor.inside if isinstance(tensor, PretendTensor) else tensor


def step(model, batches, losses):
    """Return the loss and all gradients of accumulation steps that are one another's negatives."""
    outputs = [model(batch) for batch in batches]
    features = [features_of(out, batch) for out, batch in zip(outputs, batches, strict=True)]
    whole = GlobalFeatures.gather(features, batches, losses, SingleProcess())
    shares = [step_loss(out, b, whole, a, losses)[0] for a, (out, b) in enumerate(zip(outputs, batches, strict=True))]
    total = sum(shares[1:], start=shares[0])
    total.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return inside(total.detach()), {name: inside(gradient) for name, gradient in gradients.items()}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_gives_the_numbers_of_the_cpu(name, accumulation):
    losses = STEPS[name]
    batches = [pack_samples(MIXED, losses) for _ in range(accumulation)]
    expected = step(model_of(sigmoid=losses.sigmoid > 0), batches, losses)
    with pretend_device() as device:
        model = moved(model_of(sigmoid=losses.sigmoid > 0))
        there = [batch.in_one_block().to(device) for batch in batches]
        with host_reads() as reads:
            found = step(model, there, losses)
    assert reads == [], "a step that is not logged never waits for the device"
    torch.testing.assert_close(found[0], expected[0])
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, msg=lambda m, n=name: f"{n}: {m}")


class Engine:
    """DeepSpeed's place in the step, without its own reads; it sums gradients as DeepSpeed averages them."""

    def __init__(self, model, accumulation):
        self.module, self._accumulation = model, accumulation
        self.optimizer = torch.optim.AdamW(parameter_groups(model, OptimizerConfig()))

    def __call__(self, *inputs):
        return self.module(*inputs)

    def backward(self, loss):
        (loss / self._accumulation).backward()

    def step(self):
        pass

    def was_step_applied(self):
        return True

    def is_gradient_accumulation_boundary(self):
        return True


class Group(SingleProcess):
    def __init__(self, device):
        self.device = device


def watched(engine, group):
    """Take and compare sums of its bits around every update, as runs do."""
    check = MemoryCheck(engine, group)
    check.begin(0)
    return check


def alone(engine, group):
    return engine


TRAINED = {
    "all": (STEPS["all"], {}, watched),
    "hard": (STEPS["hard"], {}, alone),
    "sigmoid": (ALL.model_copy(update={"sigmoid": 1.0}), {"sigmoid": True}, alone),
    "recomputed": (STEPS["all"], {"recompute": True}, alone),
}
"""Losses, what the model is made with, and what stands around the engine."""


def run_config(losses, task=None):
    """Return what `train_step` reads of a run."""
    engine = SimpleNamespace(precision="fp32")
    return SimpleNamespace(seed=0, task=task, losses=losses, schedule=ScheduleConfig(steps=9), engine=engine)


def trained(name, accumulation, negatives, device, place):
    """Return losses and gradients of `train_step`, the whole optimizer step as a run takes it."""
    losses, options, around = TRAINED[name]
    losses = losses.model_copy(update={"negatives": negatives})
    config = run_config(losses)
    batches = [pack_samples(MIXED, losses).in_one_block() for _ in range(accumulation)]
    return stepped(place(model_of(**options).float()), batches, config, device, around)


def stepped(model, batches, config, device, around=None):
    """Return losses and gradients of `train_step` on a device of a model that lies there."""
    engine = (around or alone)(Engine(model.train(), len(batches)), Group(device))
    split = Split(len(MIXED), len(batches), 1)
    clock = PhaseClock(device)
    clock.begin()
    report = train_step(engine, batches, 1, config, split, Group(device))
    clock.end()
    [measured] = clock.taken()
    assert {"vision_encoder", "text_encoder", "fusion", "heads", "features", "backward"} <= measured.phases.keys()
    gradients = {n: inside(p.grad) for n, p in engine.module.named_parameters() if p.grad is not None}
    return {term: inside(value) for term, value in report.terms.items()}, gradients


def assert_same(found, expected):
    """Hold losses and gradients of a device against the CPU's, which differ in the order of sums alone."""
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            size = float(value.abs().max()) if value.numel() else 0.0
            rounding = {"rtol": 1e-3, "atol": 1e-5 + 1e-4 * size}
            torch.testing.assert_close(one[key], value, **rounding, msg=lambda m, k=key: f"{k}: {m}")


def files_of(places):
    """Return the files of noted places, once for every note."""
    return [place.partition(" ")[0].rpartition("/")[2].partition(":")[0] for place in places]


@pytest.mark.parametrize(
    ("name", "accumulation", "negatives"),
    [
        ("all", 1, "global_batch"),
        ("all", 4, "micro_batch"),
        ("hard", 4, "global_batch"),
        ("sigmoid", 1, "global_batch"),
        ("recomputed", 1, "global_batch"),
    ],
)
def test_the_whole_step_never_waits_and_copies_each_micro_batch_once(name, accumulation, negatives):
    """`train_step` itself: images and videos, GLSCL, both kinds of negatives; what is not logged is not read."""
    expected = trained(name, accumulation, negatives, torch.device("cpu"), lambda model: model)
    with pretend_device() as device, host_reads() as reads, host_copies() as copies:
        found = trained(name, accumulation, negatives, device, moved)
    assert reads == []
    one_each = ["placed.py"] * accumulation
    assert files_of(copies) == one_each, "one copy a micro-batch, of a block that is pinned beside a GPU"
    assert_same(found, expected)


def test_a_step_on_pixels_that_were_decoded_there_never_waits():
    """As `data.device: mixed` hands them over: pixels on the device, all else in one block of the host."""
    config = run_config(STEPS["all"])
    batch = pack_samples(MIXED, config.losses)
    expected = stepped(model_of().float(), [batch], config, torch.device("cpu"))
    with pretend_device() as device:
        patches = batch.vision.patches.to(device)
        born = replace(batch, vision=replace(batch.vision, patches=patches)).in_one_block()
        assert born.vision.patches is patches, "pixels do not go through the host"
        with host_reads() as reads, host_copies() as copies:
            found = stepped(moved(model_of().float()), [born], config, device)
    assert reads == []
    assert files_of(copies) == ["placed.py"]
    assert_same(found, expected)


class Ranks(SingleProcess):
    """Three ranks that all send what this one sends."""

    world_size = 3

    def start_all_gather(self, tensor):
        return lambda: tensor.expand(3, *tensor.shape)


def test_ranks_that_bring_unequal_rows_are_put_together_without_waiting():
    """As frames of videos and masked words do; the rows that no rank filled are left out by the device."""
    lengths = [np.array([3, 1, 2]), np.array([3, 3, 3])]
    own = [torch.arange(6.0).view(3, 2), torch.arange(3.0), torch.arange(3)[:, None].float()]
    which = [lengths[0], lengths[1], lengths[0]]
    expected = [torch.cat([x[:rows] for rows in of_x.tolist()]) for x, of_x in zip(own, which, strict=True)]
    with pretend_device() as device, host_reads() as reads, host_copies() as copies:
        there = [x.to(device) for x in own]
        copies.clear()
        found = gather_rows(there, which, Ranks())
    assert reads == []
    assert files_of(copies) == ["communicator.py"], "one table for all tensors of the same lengths"
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(inside(one), other)


@pytest.fixture(scope="module")
def quickstart():
    small = ["evaluation.batch_size=8", "evaluation.max_samples=12", "batch.global_size=16", "batch.group_size=8"]
    config = load_config("configs/quickstart.yaml", [*small, "losses.mltc_image=0.2", "losses.mltc_text=0.2"])
    return config, load_tokenizer("embedded")


def model_for(config, tokenizer):
    model = SCLModel(config.model, tokenizer.vocab_size)
    model.initialize(0)
    return model


def test_held_out_data_is_measured_there(quickstart):
    """Lengths that attention is planned from stay on the host: a copy of the rule that forgot it ended every run."""
    config, tokenizer = quickstart
    expected = evaluate(model_for(config, tokenizer), config, tokenizer, torch.device("cpu"), SingleProcess())
    with pretend_device() as device:
        model = moved(model_for(config, tokenizer))
        found = evaluate(model, config, tokenizer, device, SingleProcess())
    for place, wanted in ((found, expected), *((found["sets"][n], row) for n, row in expected["sets"].items())):
        assert place.pop("losses") == pytest.approx(wanted.pop("losses"), rel=1e-5)
    assert found == expected
    assert set(found["retrieval"]) == {"image", "video"}


def test_pictures_and_pages_of_a_device_batch_are_those_of_the_host(quickstart):
    """With `data.device: mixed` pixels are born on the device, and every other rank waited for the one that draws."""
    config, tokenizer = quickstart
    batches = iter(TrainingBatches(config, tokenizer, 0, 1, 16, 1))
    ((batch,),) = [next(batches)]
    batches.close()
    expected = masked_inputs(batch, config, tokenizer)
    with pretend_device() as device:
        there = replace(batch, vision=replace(batch.vision, patches=batch.vision.patches.to(device)))
        found = masked_inputs(there, config, tokenizer)
        assert page(there, config, tokenizer, 0, 0) == page(batch, config, tokenizer, 0, 0)
    assert [one.name for one in found] == [one.name for one in expected]
    assert all(torch.equal(a.picture, b.picture) for a, b in zip(found, expected, strict=True))


def test_the_exported_model_computes_there():
    architecture = model_of().config.model_dump(mode="json")
    architecture["text"]["vocab_size"] = 23
    rng = generator(0, "export")
    ids = torch.from_numpy(rng.integers(4, 23, (3, 6)))
    pixels = torch.from_numpy(rng.standard_normal((3, 2, 3, 6, 6))).float()
    model = modeling_scl.SCLModel(SCLConfig(architecture)).eval()
    weights = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1, generator=weights)
        expected = model(ids, pixel_values_videos=pixels)
        with pretend_device() as device:
            moved(model)
            found = model(ids.to(device), pixel_values_videos=pixels.to(device))
    for name in ("text_embeds", "vision_embeds", "itm_logits"):
        torch.testing.assert_close(inside(found[name]), expected[name])


def test_a_tensor_that_stayed_behind_is_caught():
    batch = pack_samples(MIXED, ALL)
    with pretend_device() as device:
        there = batch.to(device)
        forgotten = replace(there, reads=replace(there.reads, text_rows=batch.reads.text_rows))
        with pytest.raises(RuntimeError, match="expected all tensors on pretend:0"):
            moved(model_of())(forgotten)
        assert not any(isinstance(length, PretendTensor) for length in vars(there.lengths).values())


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: torch.equal(x, x),
        lambda x: torch.masked_select(x, x > 0),
        lambda x: x.repeat_interleave(torch.ones_like(x, dtype=torch.int64)),
        lambda x: x.unique(),
        lambda x: torch.zeros(3).copy_(x),
    ],
)
def test_every_kind_of_wait_is_seen(wait):
    with pretend_device() as device, host_reads() as reads:
        wait(torch.ones(3).to(device))
    assert reads
