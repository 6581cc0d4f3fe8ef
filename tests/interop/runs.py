"""A run folder with a checkpoint and results as training leaves it, without training: random weights, real samples."""

import json

import torch

from sclds.config.overrides import replaced
from sclds.config.reading import dump_config, load_config
from sclds.data.tokenizer import load_tokenizer
from sclds.evaluation.heldout import HeldoutPass
from sclds.evaluation.tasks import evaluate
from sclds.interop.folder import build_model
from sclds.losses.communicator import SingleProcess
from sclds.run.checkpoints import ENGINE_TAG, STATE_FILE
from sclds.train.saved_state import MODEL_FILE

STEP = 3
SMALL = [
    *("model.vision.width=32", "model.vision.layers=2", "model.text.width=32", "model.text.layers=1"),
    *("model.fusion.width=32", "model.fusion.layers=2", "model.projection=16", "evaluation.max_samples=24"),
    *("evaluation.batch_size=16", "engine.precision=fp32", "data.decode_threads=1"),
    *(
        "model.vision.patch_size=16",
        "model.vision.pretrained_image_size=64",
        "data.image_size=64",
        "data.video_size=64",
    ),
]


def perturbed(model):
    """Move every parameter off its initial value, so that a mix-up shows."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        model.temperature.value.fill_(0.1)
    return model


def trained_run(folder, *overrides):
    """Write a run; return its settings, its model and what its held-out pass found by kind."""
    config = load_config("quickstart", [f"run_dir={folder}", *replaced(SMALL, overrides)])
    tokenizer = load_tokenizer(config.data.tokenizer)
    text = config.model.text.model_copy(update={"vocab_size": tokenizer.vocab_size})
    model = perturbed(build_model(config.model.model_copy(update={"text": text}), seed=5)).eval()
    checkpoint = folder / "checkpoints" / f"step-{STEP:07d}"
    (checkpoint / ENGINE_TAG).mkdir(parents=True)
    torch.save({"module": model.state_dict(), "optimizer": None}, checkpoint / ENGINE_TAG / MODEL_FILE)
    state = {"step": STEP, "world_size": 1, "config": config.model_dump(mode="json")}
    (checkpoint / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
    (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    arguments = (model, config, tokenizer, torch.device("cpu"), SingleProcess())
    results = evaluate(*arguments, tasks=["retrieval"]) | {"steps": STEP}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return config, model, {found.kind: found for found in HeldoutPass(*arguments).run().values()}
