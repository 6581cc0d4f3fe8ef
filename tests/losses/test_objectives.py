"""Shares of ranks and accumulation steps add up to one process on the whole batch, values and gradients."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sclds.batch import Counts
from sclds.batch.frames import frames_by_number
from sclds.batch.types import Identities
from sclds.config import LossesConfig
from sclds.losses.communicator import SingleProcess
from sclds.losses.makeup import makeup_of
from sclds.losses.objectives import FeatureGather, GlobalFeatures, StepSizes, features_of, step_loss
from sclds.objectives import objectives_in_use
from sclds.reference.published_schedule import nce, pairwise_sigmoid
from tests.losses.threads import Threads, run_ranks

WIDTH, TAU, MOST_FRAMES = 6, 0.25, 4
ALL = LossesConfig(sigmoid=0.4, mltc_image=0.2, mltc_text=0.3, completion_temperature=0.1)


def piece(seed, frames, words):
    """Return leaves and batch of one micro-batch: `frames` per sample, `words` masked words."""
    generator = torch.Generator().manual_seed(seed)
    rows, cells = len(frames), sum(frames)

    def leaf(n, width=WIDTH):
        return torch.randn(n, width, dtype=torch.float64, generator=generator).requires_grad_()

    outputs = {n: leaf(rows) for n in ("text_proj", "vision_proj", "text_recovered", "text_target")}
    outputs |= {"vision_recovered": leaf(cells), "vision_target": leaf(cells), "itm_logits": leaf(rows, 2)}
    outputs |= {"mlm_logits": leaf(words, 9), "text_tokens_recovered": leaf(words + 1)}
    outputs |= {"text_tokens_target": leaf(words + 1), "vision_tokens_recovered": leaf(2 * cells)}
    outputs["vision_tokens_target"] = leaf(2 * cells)
    labels = torch.randint(9, (words,), generator=generator), torch.randint(2, (rows,), generator=generator)
    counts = Counts(rows, words, words + 1, (2 * cells,), with_frame(frames))
    caption, image = (torch.randint(-3, 3, (rows,), generator=generator) * 2**61 for _ in range(2))
    return outputs, batch_of(*labels, frames, counts, identities=Identities(caption, image))


def with_frame(frames):
    return tuple(sum(count > number for count in frames) for number in range(MOST_FRAMES))


def batch_of(mlm, itm, frames, counts, losses=ALL, identities=None):
    """Return what the losses read of a batch."""
    return SimpleNamespace(
        samples=SimpleNamespace(frames=tuple(frames)),
        labels=SimpleNamespace(mlm=mlm, itm=itm),
        vision=SimpleNamespace(frames=frames_by_number(np.array(frames, np.int64), MOST_FRAMES)),
        counts=counts,
        objectives=objectives_in_use(losses),
        identities=identities,
    )


def detached_targets(outputs, tau):
    """Return what the model hands over: targets without gradient, and a temperature leaf."""
    found = {n: x.detach() if n.endswith("target") else x for n, x in outputs.items()}
    return found | {"temperature": tau, "pairwise_scale": 20 * tau, "pairwise_bias": -4 * tau}


def joined(pieces):
    """Return the pieces as one process would hold them."""
    outputs = {n: torch.cat([o[n].detach() for o, _ in pieces]).requires_grad_() for n in pieces[0][0]}
    mlm, itm = (torch.cat([getattr(b.labels, name) for _, b in pieces]) for name in ("mlm", "itm"))
    frames = sum((b.samples.frames for _, b in pieces), ())
    groups = sum((b.counts.replaced_per_group for _, b in pieces), ())
    completed = sum(b.counts.completed for _, b in pieces)
    counts = Counts(len(itm), len(mlm), completed, groups, with_frame(frames))
    known = Identities(*(torch.cat([getattr(b.identities, name) for _, b in pieces]) for name in ("caption", "image")))
    return outputs, batch_of(mlm, itm, frames, counts, identities=known)


def step(pieces, losses, communicator):
    """Return terms, leaf gradients and the temperature's of one rank's accumulation steps."""
    tau = torch.tensor(TAU, requires_grad=True)
    outputs = [detached_targets(o, tau) for o, _ in pieces]
    batches = [b for _, b in pieces]
    features = [features_of(o, b) for o, b in zip(outputs, batches, strict=True)]
    global_features = GlobalFeatures.gather(features, batches, losses, communicator)
    terms = {}
    gradients = []
    for index, (o, b) in enumerate(zip(outputs, batches, strict=True)):
        total, found = step_loss(o, b, global_features, index, losses)
        leaves = {n: x for n, x in pieces[index][0].items() if not n.endswith("target")}
        # All ranks work at once in one process: .grad of a leaf is its rank's alone.
        total.backward()
        gradients.append({n: x.grad.clone() for n, x in leaves.items()})
        for name, value in found.items():
            terms[name] = terms.get(name, 0) + value
    return terms, gradients, tau.grad.clone()


SPLITS = {
    "pictures_and_clips_apart": [[((1, 1, 1), 2)], [((4, 4), 0)], [((1, 8), 3)]],
    "one_row_ranks": [[((1,), 1)], [((2,), 0)], [((1,), 0)]],
    "accumulation": [[((1, 3), 2), ((1, 1), 0), ((5,), 1)]],
    "ranks_and_accumulation": [[((1, 1), 1), ((2, 1), 0)], [((4,), 0), ((1, 1, 1), 2)]],
}
"""Per rank, per accumulation step: frames of the samples and masked words."""


@pytest.mark.parametrize("duplicates", ["negatives", "ignore", "positives"])
@pytest.mark.parametrize("name", SPLITS)
def test_shares_add_up_to_one_process_on_the_whole_batch(name, duplicates):
    """Duplicates lie on other ranks and in other accumulation steps; their identities take up all 64 bits."""
    split, losses = SPLITS[name], ALL.model_copy(update={"duplicates": duplicates})
    ranks = [[piece(10 * r + s, *shape) for s, shape in enumerate(of_rank)] for r, of_rank in enumerate(split)]
    found = run_ranks(len(ranks), lambda c: step(ranks[c.rank], losses, c))
    order = [(r, s) for s in range(len(split[0])) for r in range(len(split))]
    wanted_terms, (wanted_gradients,), wanted_tau = step(
        [joined([ranks[r][s] for r, s in order])], losses, SingleProcess()
    )
    for term, value in wanted_terms.items():
        torch.testing.assert_close(sum(f[0][term] for f in found), value, rtol=1e-6, atol=1e-7, check_dtype=False)
    for leaf, value in wanted_gradients.items():
        parts = torch.cat([found[r][1][s][leaf] for r, s in order])
        torch.testing.assert_close(parts, value, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(sum(f[2] for f in found), wanted_tau, rtol=1e-5, atol=1e-7)


def test_terms_are_those_of_the_method():
    outputs, batch = piece(3, (2, 2, 2), 2)
    terms, _, _ = step([(outputs, batch)], ALL.model_copy(update={"duplicates": "negatives"}), SingleProcess())
    frames = [outputs[n].unflatten(0, (3, 2)) for n in ("vision_recovered", "vision_target")]
    wanted = {
        "contrastive": nce(outputs["text_proj"], outputs["vision_proj"], TAU),
        "mvsc": (nce(frames[0][:, 0], frames[1][:, 0], 0.1) + nce(frames[0][:, 1], frames[1][:, 1], 0.1)) / 2,
        "mlsc": nce(outputs["text_recovered"], outputs["text_target"], 0.1),
        "mltc_text": nce(outputs["text_tokens_recovered"], outputs["text_tokens_target"], 0.1),
        "mltc_image": nce(outputs["vision_tokens_recovered"], outputs["vision_tokens_target"], 0.1),
    }
    scalars = {"pairwise_scale": torch.tensor(20 * TAU), "pairwise_bias": torch.tensor(-4 * TAU)}
    wanted["sigmoid"] = pairwise_sigmoid(outputs | scalars)
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name].double(), value.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kept", ["sigmoid", "mlm"])
def test_a_loss_alone_is_what_it_is_beside_others(kept):
    """Without a comparison by nce there are no statistics to send, without any comparison nothing is sent."""
    outputs, batch = piece(3, (2, 2, 2), 2)
    others = ("contrastive", "sigmoid", "itm", "mlm", "mvsc", "mlsc", "mltc_image", "mltc_text")
    losses = ALL.model_copy(update={n: 0.0 for n in others if n != kept} | {"duplicates": "negatives"})
    batch = SimpleNamespace(**vars(batch) | {"objectives": objectives_in_use(losses)})
    own = detached_targets(outputs, torch.tensor(TAU))
    features = GlobalFeatures.gather([features_of(own, batch)], [batch], losses, SingleProcess())
    assert len(features.candidates) == (kept == "sigmoid")
    _, terms = step_loss(own, batch, features, 0, losses)
    scalars = {"pairwise_scale": torch.tensor(20 * TAU), "pairwise_bias": torch.tensor(-4 * TAU)}
    words = torch.nn.functional.cross_entropy(outputs["mlm_logits"], batch.labels.mlm)
    wanted = {"sigmoid": pairwise_sigmoid(outputs | scalars), "mlm": words}[kept].detach()
    torch.testing.assert_close(terms[kept].double(), wanted.double(), rtol=1e-6, atol=1e-6)


class _PublishedGather(torch.autograd.Function):
    """Everybody's rows; the backward returns the own slice of this rank's gradient, without a reduction."""

    @staticmethod
    def forward(ctx, own, everybody, first):
        ctx.rows = slice(first, first + len(own))
        return everybody.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient[ctx.rows], None, None


def published_gradients(rank, ranks, weight):
    """Return gradients of one rank of the published run: the whole global loss through its gather, not averaged."""
    leaves = {n: x.detach().clone().requires_grad_() for n, x in ranks[rank][0].items()}
    tau = torch.tensor(TAU, dtype=torch.float64, requires_grad=True)
    rows = {}
    for n in leaves:
        first = sum(len(o[n]) for o, _ in ranks[:rank])
        own = leaves[n].detach() if n.endswith("target") else leaves[n]
        rows[n] = _PublishedGather.apply(own, torch.cat([o[n].detach() for o, _ in ranks]), first)
    total = weight["contrastive"] * nce(rows["text_proj"], rows["vision_proj"], tau)
    total = total + nce(rows["text_recovered"], rows["text_target"], 0.1)
    total = total + nce(rows["vision_recovered"], rows["vision_target"], 0.1)
    total = total + weight["mltc_text"] * nce(rows["text_tokens_recovered"], rows["text_tokens_target"], 0.1)
    total.backward()
    return {n: x.grad for n, x in leaves.items()}, tau.grad


def test_published_scaling_is_that_of_the_published_gather():
    """Averaged over two ranks: own-row gradients are half of the true ones, the temperature's is whole."""
    ranks = [piece(seed, (1, 1, 1), 2) for seed in (1, 2)]
    losses = LossesConfig(
        itm=0,
        mlm=0,
        mltc_text=0.3,
        completion_temperature=0.1,
        duplicates="negatives",
        scaling="published",
        published_world_size=2,
    )
    literal = [published_gradients(rank, ranks, {"contrastive": 0.5, "mltc_text": 0.3}) for rank in range(2)]
    outputs = [{n: x for n, x in o.items() if "logits" not in n} for o, _ in ranks]
    found = run_ranks(2, lambda c: _published_step(outputs[c.rank], ranks[c.rank][1], losses, c))
    for rank in range(2):
        for name, gradient in found[rank][0].items():
            torch.testing.assert_close(gradient, literal[rank][0][name] / 2, rtol=1e-5, atol=1e-8)
    mean = (literal[0][1] + literal[1][1]) / 2
    torch.testing.assert_close((found[0][1] + found[1][1]).double(), mean, rtol=1e-5, atol=1e-7)
    exact = losses.model_copy(update={"scaling": "exact"})
    doubled = run_ranks(2, lambda c: _published_step(outputs[c.rank], ranks[c.rank][1], exact, c))
    for name, gradient in doubled[0][0].items():
        torch.testing.assert_close(gradient, 2 * found[0][0][name], rtol=1e-5, atol=1e-8)


def _published_step(outputs, batch, losses, communicator):
    leaves = {n: x.detach().clone().requires_grad_() for n, x in outputs.items()}
    tau = torch.tensor(TAU, requires_grad=True)
    own = detached_targets(leaves, tau)
    batch = SimpleNamespace(**vars(batch) | {"objectives": objectives_in_use(losses)})
    features = GlobalFeatures.gather([features_of(own, batch)], [batch], losses, communicator)
    total, _ = step_loss(own, batch, features, 0, losses)
    total.backward()
    return {n: x.grad for n, x in leaves.items() if x.grad is not None}, tau.grad


def test_micro_batch_negatives_are_weighed_by_their_samples():
    """Each micro-batch compares with itself alone, and all of them share one mean: larger ones count for more."""
    pieces = [piece(1, (1, 1, 1), 2), piece(2, (1, 1, 1, 1, 1), 3)]
    batches = [batch for _, batch in pieces]
    tau = torch.tensor(TAU)
    terms = {}
    losses = ALL.model_copy(update={"duplicates": "negatives"})
    sizes = StepSizes.gather(batches, SingleProcess())
    for index, (outputs, batch) in enumerate(pieces):
        own = detached_targets(outputs, tau)
        features = GlobalFeatures.gather([features_of(own, batch)], [batch], losses, SingleProcess(), sizes, index)
        for name, value in step_loss(own, batch, features, 0, losses)[1].items():
            terms[name] = terms.get(name, 0) + value
    both = {"contrastive": ("text_proj", "vision_proj", TAU), "mlsc": ("text_recovered", "text_target", 0.1)}
    for name, (a, b, temperature) in both.items():
        wanted = sum(len(o[a]) * nce(o[a], o[b], temperature) for o, _ in pieces) / 8
        torch.testing.assert_close(terms[name].double(), wanted.detach(), rtol=1e-6, atol=1e-6)
    words = [torch.nn.functional.cross_entropy(o["mlm_logits"], b.labels.mlm, reduction="sum") for o, b in pieces]
    torch.testing.assert_close(terms["mlm"].double(), (sum(words) / 5).detach(), rtol=1e-6, atol=1e-6)


class Recording(Threads):
    """Notes when messages leave and when somebody waits for them."""

    def __init__(self, *threads):
        super().__init__(*threads)
        self.events = []

    def start_all_gather(self, tensor):
        number = sum(event.startswith("start") for event in self.events)
        self.events.append(f"start {number}")
        wait = super().start_all_gather(tensor)

        def noted():
            self.events.append(f"wait {number}")
            return wait()

        return noted


def same(one, other):
    """Return whether two results agree bit by bit."""
    return all(
        torch.equal(getattr(one, n), getattr(other, n)) for n in ("a_all", "b_all", "row_lse_all", "col_lse_all")
    )


def test_projections_leave_before_fusion_and_nobody_waits_before_the_loss():
    """Two ranks, two accumulation steps: the same bits as gathering all at once, in any number of messages."""
    ranks = [[piece(10 * r + s, (1, 2, 1)[r:], 2 * s + r) for s in range(2)] for r in range(2)]

    def work(communicator):
        recorder = Recording(communicator.rank, 2, communicator._shared)
        tau = torch.tensor(TAU)
        outputs = [detached_targets(o, tau) for o, _ in ranks[recorder.rank]]
        batches = [b for _, b in ranks[recorder.rank]]
        expected = GlobalFeatures.gather(outputs, batches, ALL, recorder)
        recorder.events.clear()
        gather = FeatureGather(ALL, recorder, StepSizes.gather(batches, recorder))
        for index, (of_batch, batch) in enumerate(zip(outputs, batches, strict=True)):
            early = ("text_proj", "vision_proj", "temperature")
            gather.send(index, batch, {name: of_batch[name] for name in early})
            recorder.events.append(f"fusion {index}")
            gather.send(index, batch, of_batch)
        recorder.events.append("loss")
        return recorder.events, gather.wait().candidates, expected.candidates

    for events, found, expected in run_ranks(2, work):
        assert events[:6] == ["start 0", "fusion 0", "start 1", "start 2", "fusion 1", "start 3"]
        assert events[6:] == ["loss", "wait 0", "wait 1", "wait 2", "wait 3", "start 4", "wait 4"]
        assert found.keys() == expected.keys()
        assert all(same(found[term], expected[term]) for term in expected)
        assert all(found[term].offsets == expected[term].offsets for term in expected)


@pytest.mark.parametrize("seed", range(5))
def test_accuracies_are_shares_of_first_places_in_both_directions(seed):
    outputs, batch = piece(seed, (1, 2, 1), 4)
    batch.counts = replace(batch.counts, itm_alone=2)
    terms, _, _ = step([(outputs, batch)], ALL.model_copy(update={"duplicates": "negatives"}), SingleProcess())
    similarity = (
        torch.nn.functional.normalize(outputs["text_proj"]) @ torch.nn.functional.normalize(outputs["vision_proj"]).T
    )
    own = torch.arange(3)
    both = [(scores.argmax(1) == own).double().mean() for scores in (similarity, similarity.T)]
    assert float(terms["contrastive_accuracy"]) == pytest.approx(float(sum(both)) / 2)
    for name in ("itm", "mlm"):
        hit = (outputs[f"{name}_logits"].argmax(1) == getattr(batch.labels, name)).double().mean()
        assert float(terms[f"{name}_accuracy"]) == pytest.approx(float(hit))
    assert float(terms["itm_alone"]) == pytest.approx(2 / 3)
    assert not terms["itm_alone"].requires_grad
    # an accuracy of frames: of each place in a clip, the samples that have it are compared
    frames = torch.tensor([0, 0, 1, 0])
    parts = [outputs[n][frames == f] for f in (0, 1) for n in ("vision_recovered", "vision_target")]
    hits = 0.0
    for recovered, target in (parts[:2], parts[2:]):
        scores = torch.nn.functional.normalize(recovered) @ torch.nn.functional.normalize(target).T
        first = torch.arange(len(scores))
        weight = torch.tensor([1, 0.5, 1]) if len(scores) == 3 else torch.tensor([0.5])
        for s in (scores, scores.T):
            hits += float(((s.argmax(1) == first) * weight).sum()) / 2
    assert float(terms["mvsc_accuracy"]) == pytest.approx(hits / 3)


def test_a_batch_without_groups_of_patches_has_no_loss_of_them():
    outputs, batch = piece(6, (1, 1), 2)
    batch.counts = replace(batch.counts, replaced_per_group=())
    outputs |= {
        n: outputs[n][:0].detach().requires_grad_() for n in ("vision_tokens_recovered", "vision_tokens_target")
    }
    terms, _, _ = step([(outputs, batch)], ALL, SingleProcess())
    assert float(terms["mltc_image"]) == 0


def test_tokens_that_are_compared_within_a_group_are_not_sent_to_other_ranks():
    outputs, batch = piece(6, (1, 1), 2)
    names = set(features_of(detached_targets(outputs, torch.tensor(TAU)), batch))
    assert {"text_proj", "text_tokens_recovered"} <= names
    assert not any(name.startswith("vision_tokens") for name in names)


def test_the_makeup_counts_samples_by_their_frames_up_to_the_most_of_the_run():
    _, batch = piece(6, (1, 3, 1), 2)
    batch.samples = SimpleNamespace(frames=[1, 3, 1])
    assert makeup_of(batch, 4).with_frames == (2.0, 0.0, 1.0, 0.0)
    assert makeup_of(batch, 3).with_frames == (2.0, 0.0, 1.0)
