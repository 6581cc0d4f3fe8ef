"""A checkpoint, or a folder of weights, measured on held-out sets: what `sclds evaluate` does.

Every process holds the whole model and runs its own share of the batches; no optimizer state is read.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sclds.config import Config
from sclds.config.errors import CheckpointError, ConfigError
from sclds.config.overrides import literal, replaced
from sclds.config.reading import load_config
from sclds.config.weights import TOKENIZER, WEIGHTS, misfits
from sclds.data.quarantine import Quarantine
from sclds.data.storage.shards import cache_of, shard_problems
from sclds.data.tokenizer import Tokenizer, load_tokenizer
from sclds.evaluation.alignment import ALIGN_BENCH, alignment_problems
from sclds.evaluation.answers import PREDICTIONS
from sclds.evaluation.heldout import Progress
from sclds.evaluation.identity import key_of
from sclds.evaluation.parts import Parts
from sclds.evaluation.record import recorded
from sclds.evaluation.tasks import asks_for_gallery, evaluate, has_something_to_measure
from sclds.interop.conversions import read_model
from sclds.interop.loaded import settings_of
from sclds.losses.communicator import gather_records
from sclds.machine.implementations import choose, compute_dtype, use
from sclds.model.scl import SCLModel
from sclds.run.checkpoints import Checkpoint, checkpoint_of, resume_problems
from sclds.run.folder import RunFolder
from sclds.tasks import task_of
from sclds.tasks.annotations import annotation_problems, classes_of, heldout_sentences
from sclds.tasks.model import HEAD, build_task_model
from sclds.train.consolidate import consolidated_weights
from sclds.train.distributed import ProcessGroup
from sclds.train.engine import OF_AN_OBJECTIVE

KINDS = ("image", "video")
_NAMED = 3
"""Samples that are named of those that cannot be used."""


@dataclass(frozen=True)
class Target:
    """What is to be measured, before weights are read."""

    config: Config
    checkpoint: Checkpoint | None
    """None where it is a folder of weights."""
    folder: Path
    """Of the checkpoint or of the weights."""


def find_target(
    path: Path, config: str | None, data: Sequence[str], overrides: Sequence[str], align_bench: Path | None = None
) -> Target:
    """Return what to measure and how.

    Args:
        path: A run, of which the newest checkpoint is taken, a checkpoint `step-…`, or a folder of weights.
        config: Configuration file or shipped name instead of the run's; a folder of weights, which tells nothing of
            data, needs it where `data` is not given.
        data: Held-out sets, each `[image:|video:]NAME[=SHARDS]`; none: those of the configuration.
        overrides: `key=value` settings.
        align_bench: Folder of ALIGN-BENCH, which is then all that is measured.

    Raises:
        UserError: There is nothing to measure, or something contradicts itself or is not there.
    """
    sets = [f"data.heldout={json.dumps([_row(one) for one in data])}"] if data else []
    if align_bench is not None:
        sets = [
            *("data.heldout=[]", f"evaluation.tasks=[{ALIGN_BENCH}]", f"evaluation.align_bench={align_bench}"),
            *("evaluation.captions=first", "evaluation.rerank=0"),  # of the retrieval that is not measured
        ]
    settings = replaced(overrides, sets)
    if (path / WEIGHTS).is_file():
        target = _weights_target(path, config, settings, bool(sets))
    else:
        checkpoint = checkpoint_of(path)
        if checkpoint is None:
            raise CheckpointError(
                f"{path} is no run with a complete checkpoint, no checkpoint `step-…` and no folder that "
                f"`sclds convert` wrote; name one of these"
            )
        target = Target(_settings_of(checkpoint, config, settings), checkpoint, checkpoint.folder)
    problems = _data_problems(target.config) + alignment_problems(target.config)
    if not has_something_to_measure(target.config):
        problems.append("data.heldout is empty, so there is nothing to measure on; give --data NAME=SHARDS")
    if problems:
        raise ConfigError(problems)
    return target


def _weights_target(path: Path, config: str | None, settings: list[str], has_data: bool) -> Target:
    """Return how to measure a folder of weights: by a configuration, or by what the folder says it was shown."""
    folder = read_model(path)
    if config is not None:
        found = load_config(config, settings)
        return Target(found.model_copy(update={"model": folder.config}), None, path)
    if not has_data:
        raise CheckpointError(
            f"{path} holds weights alone, and no data to measure them on: give --data NAME=SHARDS, or --config"
        )
    tree = settings_of(folder)
    own = path / TOKENIZER if (path / TOKENIZER).is_dir() else path
    data = tree["data"] | ({"tokenizer": str(own)} if folder.tokenizer else {})
    return Target(_loaded(tree | {"data": data}, settings), None, path)


def _loaded(tree: Mapping[str, Any], overrides: list[str]) -> Config:
    """Return the settings in a tree, under overrides."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(json.dumps(literal(tree)), encoding="utf-8")
        return load_config(file, overrides)


def _data_problems(config: Config) -> list[str]:
    if config.task is not None and config.task.name != "retrieval":
        return annotation_problems(task_of(config), config.data, config.data.heldout)
    return [problem for dataset in config.data.heldout for problem in shard_problems(dataset, cache_of(config.data))]


def _row(given: str) -> dict[str, str]:
    """Return the row of a held-out set; what it does not tell comes from the catalogue of known data sets."""
    name, equals, shards = given.partition("=")
    kind, colon, rest = name.partition(":")
    if colon and kind not in KINDS:
        raise ConfigError([f"--data {given}: '{kind}' is no kind of samples; write image:NAME=SHARDS or video:…"])
    row = {"name": rest if colon else name} | ({"kind": kind} if colon else {}) | ({"shards": shards} if equals else {})
    if not row["name"] or (equals and not shards):
        raise ConfigError([f"--data {given} is not of the form NAME=SHARDS"])
    return row


def _settings_of(checkpoint: Checkpoint, config: str | None, overrides: list[str]) -> Config:
    """Return the settings of a checkpoint's run: its config.yaml, or else what the checkpoint itself holds."""
    own = RunFolder(checkpoint.folder.parent.parent).config
    # the answers that a fine-tuning has learned lie in its run folder
    overrides = replaced(overrides, [f"run_dir={own.parent}"])
    if config is not None:
        return load_config(config, overrides)
    if not own.is_file():
        return _loaded(checkpoint.config, overrides)
    _refuse_other_settings(own, checkpoint)
    return load_config(own, overrides)


def _refuse_other_settings(own: Path, checkpoint: Checkpoint) -> None:
    """Refuse a run's config.yaml that is not what its checkpoint was written with.

    Cut short it may still be valid, and leave all that is missing at its defaults.

    Raises:
        CheckpointError: It cannot be read, or differs in what a run cannot change.
    """
    try:
        problems = resume_problems(checkpoint, load_config(own, []))
    except ConfigError as fault:
        problems = fault.problems
    if problems:
        raise CheckpointError(
            f"{own} is damaged, or was changed ({problems[0].partition('; ')[0]}); move it away, and the settings that "
            f"{checkpoint.folder} holds are taken, or give --config"
        )


def measure(
    target: Target,
    group: ProcessGroup,
    progress: Progress | None = None,
    parts: Path | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """Return what `results.json` would hold for these weights; every process calls it and gets the same.

    Args:
        target: What is measured.
        group: All processes.
        progress: Is told what is done, how much of it, and of how much.
        parts: Folder where finished parts of a gallery are kept, until the caller removes it, and taken from.
        say: Is told by process 0 of what is taken from there, and of what of the samples cannot be used.

    Raises:
        UserError: Weights or samples cannot be read.
    """
    config = target.config
    use(choose(config))
    tokenizer = load_tokenizer(config.data.tokenizer)
    model = _model(target, tokenizer).to(group.device, compute_dtype(config))
    if not hasattr(model, HEAD):  # weights of pre-training, ranked with the heads that they have
        config = config.model_copy(update={"task": None})
    for sentence in heldout_sentences(config) if group.rank == 0 else ():
        say(sentence)
    kept = None
    if parts is not None and "retrieval" in config.evaluation.tasks and asks_for_gallery(config):
        kept = Parts(parts, key_of(config, model, tokenizer, group.device))
        for sentence in kept.examine() if group.rank == 0 else ():
            say(sentence)
    quarantine = Quarantine()
    measured = evaluate(model, config, tokenizer, group.device, group, quarantine, progress=progress, parts=kept)
    for sentence in _set_aside(quarantine, group):
        say(sentence)
    step = target.checkpoint.step if target.checkpoint else 0
    found = {"source": str(target.folder)} | recorded(measured, config, step, {})
    return found | ({PREDICTIONS: measured[PREDICTIONS]} if PREDICTIONS in measured else {})


def _set_aside(quarantine: Quarantine, group: ProcessGroup) -> list[str]:
    """Return on process 0 a sentence on the samples that any process could not use."""
    of_all = gather_records(quarantine.named(), group, group.device)
    lost = sorted({(sample, reason) for of_rank in of_all for sample, reason in of_rank})
    if not lost or group.rank != 0:
        return []
    first = "; ".join(f"{sample}: {reason}" for sample, reason in lost[:_NAMED])
    return [f"Set aside    {len(lost):,} samples that cannot be used, so that nothing is measured on them: {first}"]


def _model(target: Target, tokenizer: Tokenizer) -> nn.Module:
    config, task = target.config, target.config.task
    weights = consolidated_weights(target.folder) if target.checkpoint else read_model(target.folder).weights
    vocabulary = config.model.text.vocab_size or tokenizer.vocab_size
    model: SCLModel
    if task is not None and any(name.startswith(f"{HEAD}.") for name in weights):
        model = build_task_model(config.model, vocabulary, task, len(classes_of(config)), recompute=False)
    elif task is not None and task.name != "retrieval":
        raise CheckpointError(
            f"{target.folder} was not fine-tuned for task.name={task.name}: it has no {HEAD}; fine-tune it with "
            f"`sclds finetune` and model.init_from, and measure that run"
        )
    elif task is None and any(name.startswith(f"{HEAD}.") for name in weights):
        raise CheckpointError(
            f"{target.folder} was fine-tuned (it has a {HEAD}), and the configuration names no task; leave out "
            f"--config, so that the settings of its own run count"
        )
    else:
        model = SCLModel(config.model, vocab_size=vocabulary, sigmoid=config.losses.sigmoid > 0)
    _check(target.folder, model, weights)
    model.load_state_dict(weights, strict=False)
    return model


def _check(folder: Path, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not those of the model."""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    missing = sorted(shapes.keys() - weights.keys())
    if missing and all(name.startswith(OF_AN_OBJECTIVE) for name in missing):
        raise ConfigError(
            [f"losses.sigmoid cannot be measured: {folder} has no {', '.join(missing)}; give losses.sigmoid=0"]
        )
    # an objective's own parameters may be there without it being measured
    given = {n: w.shape for n, w in weights.items() if n in shapes or not n.startswith(OF_AN_OBJECTIVE)}
    if told := misfits(shapes, given):
        raise CheckpointError(
            f"{folder} does not fit the model of the configuration: {told}; compare the `model` section with that of "
            f"the run"
        )
