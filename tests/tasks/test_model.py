"""The packed fine-tuning step against its plain definition, one pair at a time: fp64, the loss in fp32 as always."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sclds.batch import Recipe, SampleViews
from sclds.batch.matches import empty_views
from sclds.config.reading import parse_config
from sclds.losses.communicator import SingleProcess
from sclds.losses.objectives import GlobalFeatures, features_of, step_loss
from sclds.reference.published_schedule import nce, pad_batch
from sclds.reference.standalone.plain_scl import fused, projection, text_tokens, vision_tokens
from sclds.tasks import TASKS
from sclds.tasks.loader import ExampleViews, TaskAssembler
from sclds.tasks.loss import with_task
from sclds.tasks.model import LOGITS, TaskModel
from tests.model.samples import GRIDS, PAD, PATCH, VOCABULARY, model_of
from tests.train.synthetic import tiny_config

CLASSES = {"vqa": 5, "snli_ve": 3, "nlvr2": 2, "retrieval": 0}
OFF = dict.fromkeys(("contrastive", "itm", "mlm", "mvsc", "mlsc"), 0.0)


def model_for(name, seed=1):
    """Return a model in fp64, weights far from initial values."""
    config = model_of().config
    model = TaskModel(config, VOCABULARY, TASKS[name], CLASSES[name]).double()
    model.initialize(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * p.std(correction=0).clamp(min=0.05) * torch.randn(p.shape, generator=generator).double()
        if name == "retrieval":
            model.temperature.value.fill_(0.25)
    return model


def examples(name, lengths, kinds=None):
    """Return examples of texts of some inner lengths (0: beginning and end alone), images or videos."""
    rng, found = np.random.default_rng(5), []
    for number, inner in enumerate(lengths):
        kind, frames = (kinds or [("image", 1)] * len(lengths))[number]
        ids = np.concatenate(([0], rng.integers(4, VOCABULARY, inner), [2])).astype(np.int64)
        views = empty_views(str(number), f"text {number}", kind, frames, GRIDS[kind == "video"], ids, number)
        scores = ((number % 5, 10), ((number + 2) % 5, 3)) if name == "vqa" else ((number % max(CLASSES[name], 1), 10),)
        if name == "retrieval":
            found.append(SampleViews(**views, image_id=number))
        else:
            found.append(ExampleViews(**views, example_id=str(number), scores=scores, images=TASKS[name].images))
    return found


def pixels(views, images):
    rows = sum(v.frames * v.grid**2 for v in views) * images
    return torch.randn(rows, 3 * PATCH**2, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def assembler(name, group=2):
    """Return what packs examples, without what reads them."""
    tree = tiny_config(batch={"global_size": 4, "max_micro_size": 4, "group_size": group}).model_dump(mode="json")
    contrastive = {"contrastive": 0.5, "duplicates": "negatives"} if name == "retrieval" else {}
    tree |= {"task": {"name": name}, "losses": OFF | contrastive, "evaluation": {}}
    config = parse_config(tree)
    made = object.__new__(TaskAssembler)
    made._config, made.classes = config, CLASSES[name]
    made._recipe = Recipe(PAD, config.losses, GRIDS, group, 2)
    return made


def packed(name, model, views, patches, group=2):
    """Return total, terms and logits as training computes them."""
    made = assembler(name, group)
    batch, losses = made._pack(views, patches), made._config.losses
    outputs = model(batch)
    features = GlobalFeatures.gather([features_of(outputs, batch)], [batch], losses, SingleProcess())
    total, terms = step_loss(outputs, batch, features, 0, losses)
    total, terms = with_task(total, terms, outputs, batch, features.counts.samples, name)
    return total, terms, outputs[LOGITS]


def plain(name, model, views, patches, group=2):
    """Return the total and the logits by the definition, pair by pair."""
    images, split = TASKS[name].images, [v.frames * v.grid**2 for v in views for _ in range(TASKS[name].images)]
    parts = torch.split(patches, split)
    types = model.token_type_embeddings.weight

    def pooled(text, vision, frames, second=False):
        tokens = vision + (types[2] - types[1] if second else 0)
        x, y = fused(model, text, None, tokens, None)
        rows = (x[:, 0] @ model.cross_modal_text_pooler.weight.T + model.cross_modal_text_pooler.bias).tanh()
        mean = y[:, :frames].mean(1)
        seen = (mean @ model.cross_modal_image_pooler.weight.T + model.cross_modal_image_pooler.bias).tanh()
        return torch.cat((rows, seen), dim=1)

    def encode(number, which):
        view, part = views[number], parts[number * images + which]
        shown = part.view(1, view.frames, view.grid**2, -1)
        tokens = vision_tokens(model.vision_encoder, "clip", shown, view.kind == "video", None, None)
        return model.cross_modal_image_transform(tokens)

    def text(number):
        padded = pad_batch([views[number]], parts[number * images], PAD, len(views[number].text))
        return model.cross_modal_text_transform(
            text_tokens(model.text_encoder, padded.text["t0"], padded.text_mask, PAD)
        )

    said, shown = (
        [text(i) for i in range(len(views))],
        [[encode(i, k) for k in range(images)] for i in range(len(views))],
    )
    if name == "retrieval":
        rows = [
            torch.cat(
                [
                    pooled(said[j], shown[i][0], views[i].frames)
                    for j in range(i // group * group, i // group * group + group)
                ]
            )
            for i in range(len(views))
        ]
        logits = torch.stack([(x @ model.task_head.weight.T + model.task_head.bias).squeeze(1) for x in rows])
        own = torch.tensor([i % group for i in range(len(views))])
        texts = torch.cat([projection(model.text_projection, x[:, 0]) for x in said])
        media = torch.cat(
            [
                projection(model.vision_projection, y[0][:, : v.frames].mean(1))
                for y, v in zip(shown, views, strict=True)
            ]
        )
        return F.cross_entropy(logits.float(), own) + 0.5 * nce(texts, media, model.temperature()), logits
    rows = []
    for i, view in enumerate(views):
        rows.append(torch.cat([pooled(said[i], shown[i][k], view.frames, k == 1) for k in range(images)], dim=1))
    head = model.task_head
    hidden = F.layer_norm(
        head.dense(torch.cat(rows)), (head.dense.out_features,), head.norm.weight, head.norm.bias, 1e-5
    )
    logits = head.out(F.gelu(hidden))
    scores = torch.zeros(len(views), CLASSES[name], dtype=torch.float64)
    for i, view in enumerate(views):
        for number, tenths in view.scores:
            scores[i, number] = tenths / 10
    if name == "vqa":  # as published: the mean over all entries, times the number of answers
        return F.binary_cross_entropy_with_logits(logits.float(), scores.float()) * CLASSES[name], logits
    return F.cross_entropy(logits.float(), scores.argmax(1)), logits


MIXED = [("image", 1), ("video", 3), ("image", 1), ("video", 1)]
CASES = [
    ("vqa", [5], None),
    ("vqa", [1, 0, 7, 3], MIXED),
    ("snli_ve", [2, 9, 5], None),
    ("nlvr2", [4, 1, 6], None),
    ("retrieval", [3, 0, 8, 8], None),
    ("retrieval", [1, 6, 2, 4], MIXED),
]


@pytest.mark.parametrize(("name", "lengths", "kinds"), CASES)
def test_loss_and_gradients_are_those_of_the_definition(name, lengths, kinds):
    model, views = model_for(name), examples(name, lengths, kinds)
    patches = pixels(views, TASKS[name].images)
    assert_equal(model, packed(name, model, views, patches), plain(name, model, views, patches))


def asked_together(views, numbers):
    """Return the samples of images about which so many of the examples ask, in their order."""
    left = iter(views)
    samples = [[next(left) for _ in range(n)] for n in numbers]
    return [replace(first, others=tuple(others)) if others else first for first, *others in samples]


ASKED = [("vqa", [3], None), ("vqa", [1, 4, 2], MIXED[:3]), ("snli_ve", [2, 1], None), ("nlvr2", [2, 3], None)]


@pytest.mark.parametrize(("name", "numbers", "kinds"), ASKED)
def test_what_is_asked_about_an_image_together_encodes_it_once(name, numbers, kinds):
    """By how many examples ask about each image: as if each were asked by itself."""
    model, images = model_for(name), TASKS[name].images
    kinds = kinds or [("image", 1)] * len(numbers)
    flat = examples(
        name, [5, 0, 7, 1, 3, 9, 2][: sum(numbers)], [kinds[k] for k, n in enumerate(numbers) for _ in range(n)]
    )
    together = asked_together(flat, numbers)
    patches = pixels(together, images)
    parts = patches.split([view.frames * view.grid**2 * images for view in together])
    batch = assembler(name)._pack(together, patches)
    assert len(batch.scores) == sum(numbers)
    assert len(batch.vision.patches) == len(patches)
    repeated = torch.cat([part for part, n in zip(parts, numbers, strict=True) for _ in range(n)])
    assert_equal(model, packed(name, model, together, patches), plain(name, model, flat, repeated))


def assert_equal(model, ours, expected):
    """Compare losses, logits and all gradients."""
    (total, _, logits), (expected, plain_logits) = ours, expected
    assert torch.allclose(logits, plain_logits, atol=1e-9)
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    wanted = torch.autograd.grad(expected, list(parameters.values()), allow_unused=True)
    scale = max(float(g.abs().max()) for g in wanted if g is not None)
    for key, one, other in zip(parameters, found, wanted, strict=True):
        if other is None:  # what no example reads takes part with zeros: ZeRO needs it on every rank
            assert one is None or not one.abs().any(), key
            continue
        assert one is not None, key
        assert float((one - other).abs().max()) <= 2e-6 * max(float(other.abs().max()), 1e-2 * scale), key


def test_every_parameter_takes_part():
    """Under ZeRO-3 a module is called whatever a batch holds; what a task never reads is no part of its model."""
    for name in TASKS:
        model, views = model_for(name), examples(name, [3, 4, 2, 5], MIXED if name != "nlvr2" else None)
        total, _, _ = packed(name, model, views, pixels(views, TASKS[name].images))
        total.backward()
        left = [key for key, p in model.named_parameters() if p.grad is None]
        assert left == [], name


@pytest.mark.parametrize("name", ["vqa", "nlvr2"])
def test_shares_of_micro_batches_add_up(name):
    """The loss of four examples is that of one and of three, each weighed by the whole."""
    model, views, images = model_for(name), examples(name, [3, 6, 1, 4]), TASKS[name].images
    patches = pixels(views, images)
    whole, terms, _ = packed(name, model, views, patches)
    made, shares = assembler(name), []
    rows = len(patches) // 4
    for part in (slice(0, 1), slice(1, 4)):
        batch = made._pack(views[part], patches[part.start * rows : part.stop * rows])
        zero = torch.zeros((), dtype=torch.float64)
        shares.append(with_task(zero, {}, model(batch), batch, 4, name))
    assert float(sum(share.detach() for share, _ in shares)) == pytest.approx(float(whole.detach()), rel=1e-6)
    accuracy = f"{name}_accuracy"
    assert float(sum(of[accuracy] for _, of in shares)) == pytest.approx(float(terms[accuracy]))


def test_accuracy_of_a_batch_by_hand():
    model, views = model_for("vqa"), examples("vqa", [3, 4])
    patches = pixels(views, 1)
    _, terms, logits = packed("vqa", model, views, patches)
    right = [dict(view.scores).get(int(row.argmax()), 0) / 10 for view, row in zip(views, logits, strict=True)]
    assert float(terms["vqa_accuracy"]) == pytest.approx(sum(right) / 2)


def test_a_blank_image_is_what_text_alone_tells():
    made = assembler("vqa")
    task = made._config.task.model_copy(update={"use_image": False})
    made._config = made._config.model_copy(update={"task": task})
    views = examples("vqa", [3, 4])
    assert not made._pack(views, pixels(views, 1)).vision.patches.any()


def test_weights_of_pretraining_are_adopted():
    weights = {name: p.detach() for name, p in model_of().named_parameters()}
    ranking = model_for("retrieval").adopted(weights)
    assert torch.equal(ranking["task_head.weight"], weights["itm_score.weight"][1:])
    assert torch.equal(ranking["task_head.bias"], weights["itm_score.bias"][1:])
    assert not [name for name in ranking if name.startswith(("mlm_score", "itm_score"))]
    types = model_for("nlvr2").adopted(weights)["token_type_embeddings.weight"]
    assert torch.equal(types, weights["token_type_embeddings.weight"][[0, 1, 1]])
    assert not [name for name in model_for("vqa").adopted(weights) if name.startswith(("text_projection", "temper"))]


def test_ranking_scores_are_those_of_the_matching_head_it_starts_from():
    """Zero-shot and fine-tuned ranking begin alike up to what is the same for all pairs."""
    pretrained, model = model_of(), model_for("retrieval")
    model.load_state_dict(model.adopted(dict(pretrained.state_dict())), strict=False)
    pooled = torch.randn(3, 32, dtype=torch.float64)
    logits = pretrained.itm_score(pooled).float()
    assert torch.allclose(model.match_score(pooled), logits[:, 1])
    assert torch.allclose(pretrained.match_score(pooled), logits[:, 1] - logits[:, 0])
