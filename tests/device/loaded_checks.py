"""A loaded model on a device: what it answers, attends to and completes there is what the CPU says."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sclds.config.overrides import replaced
from sclds.config.reading import load_config
from sclds.data.tokenizer import load_tokenizer
from sclds.interop.explore import Explorer
from sclds.interop.folder import AnswerHead, ModelFolder, Origin, build_model
from sclds.interop.loaded import LoadedModel
from sclds.interop.preprocessing import of_run
from sclds.tasks import TASKS
from sclds.tasks.model import HEAD, TaskModel
from tests.device.pretend import pretend_device
from tests.interop.runs import SMALL

TEXTS = ["a dog", "two red houses beside a tree", "a"]
IMAGES = [Image.fromarray(np.random.default_rng(n).integers(0, 255, (9 + n, 12, 3), np.uint8)) for n in range(3)]
VIDEOS = [np.random.default_rng(n).integers(0, 255, (5, 9, 9, 3), np.uint8) for n in range(3)]


def spread(model):
    """Move parameters away from their initial values, so that no two answers are nearly equal."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return dict(model.named_parameters())


@pytest.fixture(scope="module")
def config():
    few = ["evaluation.max_samples=3", "evaluation.batch_size=4", "data.video_size=48", "data.frames=3"]
    return load_config("quickstart", replaced(SMALL, few))


@pytest.fixture(scope="module")
def folder(config):
    text = config.model.text.model_copy(update={"vocab_size": load_tokenizer("embedded").vocab_size})
    architecture = config.model.model_copy(update={"text": text})
    return ModelFolder(architecture, spread(build_model(architecture)), Origin("test"), preprocessing=of_run(config))


def there(folder):
    """Return the model on the device, which it reaches as on any other: by its name."""
    model = LoadedModel(folder, "pretend:0")
    assert {parameter.device.type for parameter in model.model.parameters()} == {"pretend"}
    return model


CALLS = {
    "encode_text": lambda model: [model.encode_text(TEXTS, batch_size=2)],
    "encode_image": lambda model: [model.encode_image(IMAGES, batch_size=2)],
    "encode_video": lambda model: [model.encode_video(VIDEOS, batch_size=2)],
    "match": lambda model: [model.match(TEXTS, IMAGES), model.match(TEXTS[0], videos=VIDEOS)],
    "fuse": lambda model: [
        tensor
        for one in (*model.fuse(TEXTS, IMAGES), *model.fuse(TEXTS, videos=VIDEOS))
        for tensor in vars(one).values()
    ],
    "attention": lambda model: [*model.attention(TEXTS, IMAGES), *model.attention(TEXTS, videos=VIDEOS)],
}


@pytest.mark.parametrize("call", CALLS)
def test_calls_from_python_give_the_numbers_of_the_cpu(folder, call):
    expected = CALLS[call](LoadedModel(folder))
    with pretend_device():
        found = CALLS[call](there(folder))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert type(one) is torch.Tensor, "results lie on the CPU"
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("task", ["vqa", "nlvr2"])
def test_answers_are_those_of_the_cpu(config, folder, task):
    """Of one image, blank where images were left out, and of two with a token type of their own."""
    classes = ("red", "blue", "yes", "no", "two")[: 5 if task == "vqa" else 2]
    model = TaskModel(folder.config, folder.config.text.vocab_size, TASKS[task], len(classes))
    model.initialize(0)
    weights = spread(model)
    head = {name.removeprefix(f"{HEAD}."): tensor for name, tensor in weights.items() if name.startswith(HEAD)}
    own = {name: tensor for name, tensor in weights.items() if not name.startswith(HEAD)}
    rows = len(own["token_type_embeddings.weight"])
    architecture = folder.config.model_copy(
        update={"fusion": folder.config.fusion.model_copy(update={"token_types": rows})}
    )
    images = TASKS[task].images
    for use_image in (True, False)[: 3 - images]:
        answers = AnswerHead(task, classes, head, images, use_image)
        tuned = replace(folder, config=architecture, weights=own, answers=answers)
        shown = (IMAGES, IMAGES[::-1])[:images]
        expected = LoadedModel(tuned)
        with pretend_device():
            found = there(tuned)
            assert found.answer(TEXTS, *shown, batch_size=2) == expected.answer(TEXTS, *shown, batch_size=2)
            logits = found._class_logits(found._head, TEXTS, shown, 2)
        torch.testing.assert_close(logits.cpu(), expected._class_logits(expected._head, TEXTS, shown, 2))


def test_what_is_completed_there_is_what_the_cpu_completes(config, folder):
    def explored(model):
        with closing(Explorer(model, config, lambda what, done, total: None)) as explorer:
            return explorer(2)

    expected = explored(LoadedModel(folder))
    with pretend_device():
        found = explored(there(folder))
    assert [one.kind for one in found] == ["image", "video"]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.sample_ids, ours.wrong) == (theirs.sample_ids, theirs.wrong)
        for name in ("vision", "text"):
            for gallery, wanted in getattr(theirs, name).items():
                one = getattr(ours, name)[gallery]
                for condition, ranks in wanted.ranks.items():
                    assert torch.equal(one.ranks[condition], ranks)
                    assert torch.equal(one.found[condition], wanted.found[condition])
        assert len(ours.examples) == len(theirs.examples) == 1
        for one, other in zip(ours.examples, theirs.examples, strict=True):
            assert (one.number, one.words, one.masked) == (other.number, other.words, other.masked)
            assert torch.equal(one.frames, other.frames)
            assert torch.equal(one.hidden, other.hidden)
            torch.testing.assert_close(one.attention, other.attention)
