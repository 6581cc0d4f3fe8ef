"""Downstream tasks on a device: steps that never wait, and the CPU's losses, answers and ranks."""

from types import SimpleNamespace

import pytest
import torch

from sclds.config.reading import load_config
from sclds.data.tokenizer import load_tokenizer
from sclds.evaluation.tasks import evaluate
from sclds.losses.communicator import SingleProcess
from sclds.tasks import TASKS
from sclds.tasks.annotations import classes_of, write_classes
from sclds.tasks.model import TaskModel
from tests.device.checks import assert_same, files_of, run_config, stepped
from tests.device.pretend import host_copies, host_reads, moved, pretend_device
from tests.evaluation.test_align_bench import benchmark, found_by, model_of
from tests.evaluation.test_align_bench import settings as with_benchmark
from tests.evaluation.test_gallery import settings as with_evaluation
from tests.evaluation.test_gallery import world
from tests.tasks.test_model import MIXED, asked_together, assembler, examples, model_for, pixels
from tests.tasks.test_run import CONFIG, settings

__all__ = ["benchmark", "settings", "world"]
"""Fixtures of theirs."""
SEVERAL = [(name, (2, 1, 3, 1)) for name in TASKS if not TASKS[name].reads_captions]


@pytest.mark.parametrize(("name", "asked"), [(name, (1, 1, 1, 1)) for name in TASKS] + SEVERAL)
def test_a_step_of_fine_tuning_never_waits_and_copies_its_batch_once(name, asked):
    """Questions of images and videos, two images a statement, and all captions of a group beside every image.

    `asked` is how many questions or statements each image has.
    """
    kinds = None if TASKS[name].images == 2 else [kind for kind, n in zip(MIXED, asked, strict=True) for _ in range(n)]
    views = asked_together(examples(name, [1, 6, 2, 4, 0, 3, 5][: sum(asked)], kinds), asked)
    made = assembler(name)
    batch = made._pack(views, pixels(views, TASKS[name].images).float()).in_one_block()
    config = run_config(made._config.losses, SimpleNamespace(name=name))
    expected = stepped(model_for(name).float(), [batch], config, torch.device("cpu"))
    with pretend_device() as device:
        model = moved(model_for(name).float())
        with host_reads() as reads, host_copies() as copies:
            found = stepped(model, [batch], config, device)
    assert reads == []
    assert files_of(copies) == ["placed.py"]
    assert_same(found, expected)


@pytest.mark.parametrize("together", [1, 2])
def test_questions_are_answered_there(settings, together):
    config = load_config(CONFIG, [*settings, f"task.questions_per_image={together}"])
    write_classes(config)
    tokenizer = load_tokenizer("embedded")

    def model():
        made = TaskModel(config.model, tokenizer.vocab_size, TASKS["vqa"], len(classes_of(config)))
        made.initialize(0)
        return made.eval()

    expected = evaluate(model(), config, tokenizer, torch.device("cpu"), SingleProcess())
    with pretend_device() as device:
        found = evaluate(moved(model()), config, tokenizer, device, SingleProcess())
    assert found == expected
    assert len(found["predictions"]["easy_vqa-test"]) == 13


@pytest.mark.parametrize("rerank", [0, 3])
def test_ranks_with_and_without_the_matching_head_are_those_of_the_cpu(world, rerank):
    config, model, tokenizer = world
    config = with_evaluation(config, rerank=rerank)
    expected = evaluate(model, config, tokenizer, torch.device("cpu"), SingleProcess())
    with pretend_device() as device:
        found = evaluate(moved(model), config, tokenizer, device, SingleProcess())
    assert found == expected
    assert all(("matching" in row) == bool(rerank) for row in found["sets"].values())


def test_attention_lies_there_where_it_lies_on_the_cpu(benchmark):
    config = with_benchmark(benchmark)
    expected = found_by(model_of(config), config)["align_bench"]
    with pretend_device() as device:
        found = evaluate(moved(model_of(config)), config, load_tokenizer("embedded"), device, SingleProcess())
    for score in ("global", "local"):
        assert found["align_bench"][score] == pytest.approx(expected[score], rel=1e-5)
    assert found["align_bench"]["pairs"] == 6
