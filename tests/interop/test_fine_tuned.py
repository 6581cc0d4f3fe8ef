"""Fine-tuned models taken out: of retrieval as one of pre-training, of two images with the head of its answers."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import sclds
from sclds.batch import recipe_of
from sclds.batch.matches import empty_views, pack_matches, text_alone
from sclds.batch.views import SampleViews
from sclds.cli.main import main
from sclds.config.errors import UserError
from sclds.config.reading import dump_config, load_config
from sclds.data.tokenizer import load_tokenizer
from sclds.evaluation.reranker import match_scores
from sclds.interop.conversions import from_run
from sclds.interop.measure import _model, find_target
from sclds.run.checkpoints import ENGINE_TAG, STATE_FILE
from sclds.tasks.annotations import classes_of
from sclds.tasks.loader import ExampleViews, TaskAssembler
from sclds.tasks.model import LOGITS, build_task_model
from sclds.train.saved_state import MODEL_FILE
from tests.interop.runs import SMALL

WHOLE = ["losses.contrastive=0", "data.train.0.phrase_dropout=0", "data.train.1.phrase_dropout=0"]
"""What a task with a loss of its own does without."""


def fine_tuned(folder, *overrides):
    """Write the run folder of a fine-tuning with random weights; return its settings and its model."""
    config = load_config("quickstart", [f"run_dir={folder}", *SMALL, *overrides])
    vocabulary = load_tokenizer("embedded").vocab_size
    model = build_task_model(config.model, vocabulary, config.task, len(classes_of(config)), recompute=False)
    model.initialize(5)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    checkpoint = folder / "checkpoints" / "step-0000003"
    (checkpoint / ENGINE_TAG).mkdir(parents=True)
    torch.save({"module": model.state_dict(), "optimizer": None}, checkpoint / ENGINE_TAG / MODEL_FILE)
    state = {"step": 3, "world_size": 1, "config": config.model_dump(mode="json")}
    (checkpoint / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
    (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    return config, model.eval()


def test_a_model_of_retrieval_is_taken_as_one_of_pretraining(tmp_path):
    """Its ranking score is the log-odds of a match, from Python and in an exported folder."""
    config, model = fine_tuned(tmp_path / "run", "task.name=retrieval", "losses.contrastive=0.5")
    loaded = sclds.load(tmp_path / "run")
    images = [Image.fromarray(np.full((9, 9, 3), level, np.uint8)) for level in (20, 130, 250)]
    texts = ["a dog", "two red houses", "a"]
    patches = torch.cat([loaded._patches(image, "image", 1, "") for image in images])
    tokens = [np.array(loaded.tokenizer.encode(text, 32)[0], np.int64) for text in texts]
    none = np.zeros(0, np.int64)
    shown = [SampleViews(**empty_views("", "", "image", 1, 4, none, 0)) for _ in images]
    pairs = np.stack((np.arange(3), np.arange(3)), axis=1)
    recipe = recipe_of(config, loaded.tokenizer.pad_id)
    batch = pack_matches([text_alone(ids) for ids in tokens], shown, pairs, patches, recipe)
    with torch.no_grad():
        outputs = model(batch)
        scores = match_scores(model, batch, outputs["vision_views"])
    torch.testing.assert_close(loaded.match(texts, images), scores.sigmoid(), rtol=0, atol=1e-6)
    features = torch.nn.functional.normalize(outputs["text_proj"], dim=1)
    torch.testing.assert_close(loaded.encode_text(texts), features, rtol=0, atol=1e-6)
    assert main(["convert", "huggingface", str(tmp_path / "run"), str(tmp_path / "hub")]) == 0
    assert torch.equal(sclds.load(tmp_path / "hub").match(texts, images), loaded.match(texts, images))
    initialized = from_run(tmp_path / "run").origin.initialized
    assert initialized
    assert all(name.startswith("mlm_score.") for name in initialized)
    with pytest.raises(UserError, match="no head that answers"):
        loaded.answer("a dog", images[0])


def test_statements_about_two_images_are_answered_as_the_packed_model_does(tmp_path):
    config, model = fine_tuned(tmp_path / "run", "task.name=nlvr2", *WHOLE)
    loaded = sclds.load(tmp_path / "run")
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)) for _ in range(6)]
    texts = ["both are red", "a dog", "one of them is larger than the other"]
    made = object.__new__(TaskAssembler)
    made._config, made.classes, made._recipe = config, 2, recipe_of(config, loaded.tokenizer.pad_id)
    views = [
        ExampleViews(
            **empty_views("", text, "image", 1, 4, np.array(loaded.tokenizer.encode(text, 32)[0]), 0), images=2
        )
        for text in texts
    ]
    batch = made._pack(views, torch.cat([loaded._patches(image, "image", 1, "") for image in images]))
    with torch.no_grad():
        logits = model(batch)[LOGITS]
    given = loaded._class_logits(loaded._head, texts, (images[::2], images[1::2]), 2)
    torch.testing.assert_close(given, logits, rtol=0, atol=2e-6)
    swapped = loaded._class_logits(loaded._head, texts, (images[1::2], images[::2]), 2)
    assert float((swapped - logits).abs().max()) > 1e-3
    wanted = [("False", "True")[number] for number in logits.argmax(1).tolist()]
    assert loaded.answer(texts, images[::2], images[1::2]) == wanted
    with pytest.raises(UserError, match="nlvr2 is about 2 images beside a text"):
        loaded.answer(texts, images[::2])


def test_a_fine_tuned_model_is_no_pretrained_one_and_says_which_parameters_differ(tmp_path):
    fine_tuned(tmp_path / "run", "task.name=retrieval", "losses.contrastive=0.5")
    with pytest.raises(UserError, match=r"was fine-tuned \(it has a task_head\).*leave out --config"):
        _model(find_target(tmp_path / "run", "quickstart", [], SMALL), load_tokenizer("embedded"))
    wider = ["task.name=retrieval", "losses.contrastive=0.5", "model.projection=24"]
    settings = [one for one in SMALL if not one.startswith("model.projection")]
    with pytest.raises(UserError, match=r"text_projection.out.weight: \(16, 32\) where the model has \(24, 32\)"):
        _model(find_target(tmp_path / "run", "quickstart", [], [*settings, *wider]), load_tokenizer("embedded"))


def test_a_model_that_answers_is_exported_as_nothing(tmp_path, capsys):
    fine_tuned(tmp_path / "run", "task.name=snli_ve", *WHOLE)
    for command in ("run", "huggingface"):
        assert main(["convert", command, str(tmp_path / "run"), str(tmp_path / "out")]) == 2
        told = capsys.readouterr().err
        assert "fine-tuned for task.name=snli_ve" in told
        assert "answer with `sclds.load` from Python" in told
