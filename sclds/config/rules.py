"""Rules across settings: what no single field can refuse by itself, and what a resumed run may change."""

import math

from sclds.config.base import MayChangeMark, Section
from sclds.config.errors import ConfigError
from sclds.config.schema import (
    LOSS_WEIGHTS,
    Config,
    DataConfig,
    DatasetConfig,
    GuardsConfig,
    MaskingConfig,
    TaskConfig,
)


def cross_field_problems(config: Config) -> list[str]:
    """Return a sentence for every pair of settings that contradict each other."""
    parts = (
        *(_size_problems, _tower_problems, _batch_problems, _losses_problems, _training_problems, _guards_problems),
        *(_reading_problems, _evaluation_problems, _task_problems, _checkpoint_problems, _data_set_problems),
    )
    return [problem for problems_of in parts for problem in problems_of(config)]


def _size_problems(config: Config) -> list[str]:
    """Return what of images, videos and widths does not fit the model."""
    problems = []
    data, model = config.data, config.model
    for key, size in (("data.image_size", data.image_size), ("data.video_size", data.video_size)):
        if size % model.vision.patch_size:
            below = max(1, size // model.vision.patch_size) * model.vision.patch_size
            problems.append(
                f"{key}={size} is not a multiple of model.vision.patch_size={model.vision.patch_size}; use {below}"
            )
    if data.frames > model.vision.max_frames:
        problems.append(
            f"data.frames={data.frames} exceeds model.vision.max_frames={model.vision.max_frames}; "
            f"lower the one or raise the other"
        )
    for part in ("vision", "text", "fusion"):
        section = getattr(model, part)
        if section.width % section.heads:
            problems.append(
                f"model.{part}.width={section.width} is not a multiple of model.{part}.heads={section.heads}"
            )
    if model.initial_temperature < model.min_temperature:
        problems.append(
            f"model.initial_temperature={model.initial_temperature} is below "
            f"model.min_temperature={model.min_temperature}; raise the one or lower the other"
        )
    return problems


def _batch_problems(config: Config) -> list[str]:
    """Return what of `batch` contradicts itself, or the losses."""
    problems, batch = [], config.batch
    if batch.global_size % batch.group_size:
        problems.append(
            f"batch.global_size={batch.global_size} is not a multiple of batch.group_size={batch.group_size}; "
            f"use {batch.global_size // batch.group_size * batch.group_size or batch.group_size}"
        )
    if batch.max_micro_size < batch.group_size:
        problems.append(
            f"batch.max_micro_size={batch.max_micro_size} is smaller than batch.group_size={batch.group_size}; "
            f"raise it to a multiple of the group"
        )
    if config.losses.itm > 0 and batch.group_size < 2:
        problems.append("batch.group_size=1 leaves ITM without a wrong image; use at least 2, or losses.itm=0")
    return problems


def _losses_problems(config: Config) -> list[str]:
    """Return what of `losses` has no effect."""
    problems, losses = [], config.losses
    if losses.mlm_view == "t2" and losses.mlm == 0:
        problems.append("losses.mlm_view=t2 has no effect with losses.mlm=0; remove it")
    if losses.mlm_view == "t2" and config.masking.mlm_ratio != MaskingConfig().mlm_ratio:
        problems.append(
            f"masking.mlm_ratio={config.masking.mlm_ratio} has no effect with losses.mlm_view=t2, where "
            f"masking.scl_text_ratio says how many words are masked; remove it"
        )
    if losses.itm_negatives == "hard" and losses.itm == 0:
        problems.append("losses.itm_negatives=hard has no effect with losses.itm=0; remove it")
    if losses.scaling == "exact" and losses.published_world_size != 1:
        problems.append("losses.published_world_size has no effect with losses.scaling=exact; remove it")
    return problems


def _reading_problems(config: Config) -> list[str]:
    """Return what of reading, decoding and augmenting has no effect."""
    problems, data = [], config.data
    if data.device == "cpu" and (data.hw_decoder_load != 0.9 or not data.nvdec):
        problems.append("data.hw_decoder_load and data.nvdec have no effect with data.device=cpu; remove them")
    if not data.randaugment_operations and data.randaugment_magnitude != 9:
        problems.append("data.randaugment_magnitude has no effect with data.randaugment_operations=0; remove it")
    if not any("://" in dataset.shards for dataset in (*data.train, *data.heldout)):
        problems += [
            f"data.{key} has no effect: no data set is a URL, and paths are read in place; remove it"
            for key in ("cache_dir", "cache_bytes")
            if getattr(data, key) != DataConfig.model_fields[key].default
        ]
    return problems


def _checkpoint_problems(config: Config) -> list[str]:
    """Return what of `checkpoint` contradicts itself, or what is measured."""
    problems, checkpoint = [], config.checkpoint
    if checkpoint.keep_every % checkpoint.every:
        problems.append(
            f"checkpoint.keep_every={checkpoint.keep_every} is not a multiple of checkpoint.every={checkpoint.every}, "
            f"so that some of its steps have no checkpoint; use a multiple"
        )
    if checkpoint.best and not config.evaluation.every:
        problems.append(
            f"checkpoint.best={checkpoint.best} is measured every evaluation.every steps, and that is 0; set it"
        )
    return problems


def _data_set_problems(config: Config) -> list[str]:
    """Return what of the lists of data sets contradicts itself."""
    data = config.data
    names = [d.name for d in data.train] + [d.name for d in data.heldout]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems = [f"data: two data sets are named '{name}'; give each its own name" for name in twice]
    if any(d.name == "align_bench" for d in data.heldout):
        problems.append("data.heldout: 'align_bench' is the name of a task's own set; give the set another one")
    problems += [
        f"data.heldout: phrase_dropout={d.phrase_dropout} of '{d.name}' has no effect: held-out captions are read "
        f"whole; remove it"
        for d in data.heldout
        if d.phrase_dropout
    ]
    problems += [
        f"data.heldout: weight={d.weight} of '{d.name}' has no effect: held-out samples are measured once; remove it"
        for d in data.heldout
        if d.weight != DatasetConfig.model_fields["weight"].default
    ]
    if data.crop_area[0] > data.crop_area[1] or not data.crop_area[1]:
        problems.append(f"data.crop_area={list(data.crop_area)} is no range of shares; give [least, most], as [0.5, 1]")
    if not data.train:
        problems.append("data.train is empty; name at least one data set")
    return problems


def _evaluation_problems(config: Config) -> list[str]:
    """Return what of `evaluation` contradicts itself or the model, or has no effect."""
    problems = []
    evaluation, most = config.evaluation, config.model.vision.max_frames
    if evaluation.frames is not None and evaluation.frames > most:
        problems.append(
            f"evaluation.frames={evaluation.frames} exceeds model.vision.max_frames={most}; lower the one or raise the "
            f"other"
        )
    if evaluation.align_bench is None and "align_bench" in evaluation.tasks:
        problems.append(
            "evaluation.tasks: align_bench reads the folder evaluation.align_bench (images/, pkls/), and that is not "
            "set; set it, or remove the task"
        )
    elif evaluation.align_bench is not None and "align_bench" not in evaluation.tasks:
        problems.append(
            f"evaluation.align_bench={evaluation.align_bench} has no effect without align_bench in evaluation.tasks; "
            f"add it there, or remove the folder"
        )
    if "retrieval" not in evaluation.tasks:
        problems += [
            f"evaluation.{key}={value} has no effect without retrieval in evaluation.tasks; remove it"
            for key, value, default in (
                ("captions", evaluation.captions, "first"),
                ("rerank", evaluation.rerank, 0),
            )
            if value != default
        ]
    if evaluation.every and not config.data.heldout and "align_bench" not in evaluation.tasks:
        problems.append(f"evaluation.every={evaluation.every} has no effect with data.heldout=[]; remove it")
    if evaluation.share != 1 and not evaluation.every:
        problems.append(f"evaluation.share={evaluation.share} has no effect with evaluation.every=0; remove it")
    return problems


def _task_problems(config: Config) -> list[str]:
    """Return what of a fine-tuning, or of a pre-training that is taken for one, contradicts itself."""
    task, problems = config.task, []
    for name in config.evaluation.tasks:
        if name == "align_bench":
            continue  # of any model
        if name not in ("losses", "retrieval") and (task is None or task.name != name):
            problems.append(
                f"evaluation.tasks: {name} is measured of a model that was fine-tuned for it; set task.name={name}"
            )
        elif task is not None and name != task.name:
            problems.append(f"evaluation.tasks: {name} is not measured of a model for task.name={task.name}; remove it")
    if task is None:
        return problems
    compared = ("contrastive",) if task.name == "retrieval" else ()
    problems += [
        f"losses.{name}={getattr(config.losses, name)} has no effect with task.name={task.name}, which has a loss "
        f"of its own; remove it"
        for name in LOSS_WEIGHTS
        if getattr(config.losses, name) and name not in compared
    ]
    if config.masking != MaskingConfig():
        problems.append(f"masking has no effect with task.name={task.name}, which shows everything; remove it")
    problems += [
        f"data.train: phrase_dropout={d.phrase_dropout} of '{d.name}' has no effect with task.name={task.name}, which "
        f"reads its texts whole; remove it"
        for d in config.data.train
        if d.phrase_dropout and task.name != "retrieval"
    ]
    if config.batch.layout != "by_size":
        problems.append(f"batch.layout={config.batch.layout} has no effect with task.name={task.name}; remove it")
    if task.name == "retrieval" and config.batch.group_size < 2:
        problems.append("batch.group_size=1 leaves task.name=retrieval no other caption to rank; published is 16")
    if task.name == "retrieval" and task.questions_per_image != 1:
        problems.append("task.questions_per_image has no effect with task.name=retrieval, which asks none; remove it")
    if task.name != "vqa" and task.min_answer_count != TaskConfig.model_fields["min_answer_count"].default:
        problems.append(f"task.min_answer_count has no effect with task.name={task.name}; remove it")
    return problems


def _training_problems(config: Config) -> list[str]:
    """Return what contradicts itself among losses, optimizer and engine."""
    problems = []
    engine, optimizer = config.engine, config.optimizer
    if config.task is None and not any(getattr(config.losses, name) for name in LOSS_WEIGHTS):
        problems.append(
            f"losses: all weights are 0, so that nothing is learned; give one of {', '.join(LOSS_WEIGHTS)} a weight"
        )
    problems += _idle_problems(config) if config.task is None else []
    for part in ("fusion", "heads"):
        multiplier = getattr(optimizer, f"{part}_multiplier")
        if math.isinf(optimizer.learning_rate * multiplier):
            problems.append(
                f"optimizer.{part}_multiplier={multiplier} times optimizer.learning_rate={optimizer.learning_rate} is "
                f"no number; lower the one or the other"
            )
    if optimizer.implementation != "torch" and engine.zero_stage == 0:
        problems.append(
            f"optimizer.implementation={optimizer.implementation} has no effect with engine.zero_stage=0, where our "
            f"own AdamW clips and keeps fp32 weights; remove it"
        )
    if engine.gradient_precision == "bf16" and (engine.precision == "fp32" or engine.zero_stage == 0):
        why = "engine.precision=fp32" if engine.precision == "fp32" else "engine.zero_stage=0, which adds up in fp32"
        problems.append(f"engine.gradient_precision=bf16 has no effect with {why}; remove it")
    return problems


def _idle_problems(config: Config) -> list[str]:
    """Return a sentence for every objective that has a weight and nothing to learn from."""
    losses, masking, data, patch = config.losses, config.masking, config.data, config.model.vision.patch_size
    fewest = (min(data.image_size, data.video_size) // patch) ** 2
    problems = [
        f"losses.{name}={getattr(losses, name)} has nothing to learn from with masking.{key}={getattr(masking, key)}, "
        f"which hides none of {what}; raise it, or set losses.{name}=0"
        for name, key, what, hidden in (
            ("mlm", "mlm_ratio", "the words", masking.mlm_ratio > 0 or losses.mlm_view == "t2"),
            ("mvsc", "scl_vision_ratio", f"{fewest} patches", int(fewest * (1 - masking.scl_vision_ratio)) < fewest),
            ("mltc_image", "mltc_vision_ratio", f"{fewest} patches", int(fewest * masking.mltc_vision_ratio) > 0),
        )
        if getattr(losses, name) and not hidden
    ]
    alone = "batch.global_size=1" if config.batch.global_size == 1 else ""
    if not alone and losses.negatives == "micro_batch" and config.batch.max_micro_size == 1:
        alone = "batch.max_micro_size=1 with losses.negatives=micro_batch"
    problems += [
        f"losses.{name}={getattr(losses, name)} compares the samples of a batch, and {alone} leaves one; raise it, or "
        f"set losses.{name}=0"
        for name in ("contrastive", "mvsc", "mlsc")
        if alone and getattr(losses, name)
    ]
    return problems


def _guards_problems(config: Config) -> list[str]:
    """Return what the guard against spikes lacks, or what is set for one that is off."""
    guards = config.guards
    if guards.spike_deviations:
        if config.checkpoint.keep < 2:
            return ["checkpoint.keep=1 leaves guards.spike_deviations no checkpoint to go back to; set 2 or more"]
        return []
    changed = [n for n in ("spike_window", "spike_skip") if getattr(guards, n) != GuardsConfig.model_fields[n].default]
    return [f"guards.{name} has no effect with guards.spike_deviations=0; remove it" for name in changed]


def _tower_problems(config: Config) -> list[str]:
    """Return what the types of the vision and the text tower contradict."""
    problems = []
    data, vision, text = config.data, config.model.vision, config.model.text
    if vision.type == "perception_encoder" and (vision.width // vision.heads) % 4:
        problems.append(
            f"model.vision.heads={vision.heads} gives heads of {vision.width // vision.heads} channels, and rotary "
            f"positions turn a multiple of 4 channels; choose another number of heads"
        )
    for key, size in (("data.image_size", data.image_size), ("data.video_size", data.video_size)):
        if vision.pools_frames and not int((size // vision.patch_size) ** 2 * (1 - config.masking.scl_vision_ratio)):
            problems.append(
                f"masking.scl_vision_ratio={config.masking.scl_vision_ratio} leaves v1 no patch of {key}={size}, over "
                f"which model.vision.type={vision.type} could pool; lower it"
            )
    multilingual = "xlm-roberta" in data.tokenizer
    if data.tokenizer.rsplit("/", 1)[-1].startswith(("roberta-", "xlm-roberta-")) and multilingual != (
        text.type == "xlm_roberta"
    ):
        problems.append(
            f"data.tokenizer={data.tokenizer} is not that of model.text.type={text.type}; change the one or the other"
        )
    return problems


def refuse_task(config: Config, command: str) -> None:
    """Refuse a fine-tuning where a command is about pre-training alone.

    Raises:
        ConfigError: The configuration names a task.
    """
    if config.task is not None:
        raise ConfigError(
            [f"{command} is for pre-training, and task.name={config.task.name} is a fine-tuning; leave it out"]
        )


def keys_that_may_change(section: type[Section] = Config, prefix: str = "") -> list[str]:
    """Return the dotted keys of the settings marked `MayChange`, of whole sections too, in the schema's order."""
    keys = []
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        if any(isinstance(mark, MayChangeMark) for mark in field.metadata):
            keys.append(key)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys += keys_that_may_change(field.annotation, f"{key}.")
    return keys
