"""Start of a run: everything that can be wrong is found and reported at once, before any process does work."""

import contextlib
import difflib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sclds.config import BatchConfig, Config, DataConfig, EngineConfig, ModelConfig, OptimizerConfig, Section
from sclds.config.errors import ConfigError, SharedError, UserError
from sclds.config.model import TextConfig
from sclds.config.reading import parse_config, read_settings
from sclds.config.weights import TOKENIZER, architecture_problems
from sclds.run.checkpoints import Checkpoint, newest_checkpoint, resume_problems
from sclds.run.folder import RunFolder
from sclds.train.place import Place, take_ranks, this_place
from sclds.train.trackers import tracker_problems

USER_ERROR = 2
"""Exit code where the user's input is at fault."""
PEER_LOST = 1
"""Exit code of a process that cannot go on because another one ended."""


@dataclass(frozen=True)
class Start:
    """A run that can start here."""

    config: Config
    checkpoint: Checkpoint | None
    """The newest of its run folder, from which it goes on; None starts at step 0."""


def checked_start(
    path: str | Path, overrides: list[str], world_size: int, hostfile: bool = False, trains: bool = True
) -> Start:
    """Return what a run starts from, if it can start here on `world_size` processes.

    Args:
        path: The configuration, a file or a shipped one's name.
        overrides: Settings over those of the file.
        world_size: Processes of the run.
        hostfile: Whether hosts were named for it, which are held to have accelerators.
        trains: Whether this host takes part, and so must have what the settings need of a machine.

    Raises:
        ConfigError: With a sentence for everything that stands in the way.
    """
    settings, problems = read_settings(path, overrides)
    try:
        config = parse_config(settings)
    except ConfigError as fault:
        told = problems + fault.problems + architecture_problems(settings)
        raise ConfigError(told + _problems_of_valid_sections(settings)) from fault
    checkpoint = newest_checkpoint(RunFolder(config.run_dir).checkpoints)
    checks: list[Callable[[], list[str]]] = [
        lambda: _split_problems(config.batch, world_size),
        lambda: _data_problems(config.data, config.task.name if config.task else None, config.model.text),
        lambda: RunFolder(config.run_dir).problems(),
        lambda: _optimizer_problems(config.optimizer) if trains else [],
        lambda: _backend_problems(config.engine, config.model) if trains else [],
        lambda: _accelerator_problems(this_place(), hostfile) if trains else [],
        lambda: _driver_problems(this_place()) if trains else [],
        lambda: _decoder_problems(config.data) if trains else [],
        lambda: [
            f"engine.env: {name} is not set here; export it where the run is launched, and use sclds launch, which "
            f"hands it on (DeepSpeed's own launcher does not)"
            for name in config.engine.env
            if name not in os.environ
        ],
        lambda: _deepspeed_problems(config.engine),
        lambda: tracker_problems(config.log) if trains else [],
        lambda: _offload_problems(config),
        lambda: _best_problems(config),
        lambda: _alignment_problems(config),
        # a run that goes on has its weights in its checkpoint
        lambda: _start_problems(settings, config) if checkpoint is None else [],
        lambda: [] if checkpoint is None else resume_problems(checkpoint, config),
    ]
    problems += (problem for check in checks for problem in check())
    if problems:
        raise ConfigError(problems)
    return Start(config, checkpoint)


def _problems_of_valid_sections(settings: Any) -> list[str]:
    """Return what is wrong outside the configuration with those of its sections that are valid by themselves."""
    sections: dict[str, tuple[type[Section], Callable[[Any], list[str]]]] = {
        "data": (DataConfig, lambda data: _data_problems(data, _task_in(settings))),
        "optimizer": (OptimizerConfig, _optimizer_problems),
        "engine": (
            EngineConfig,
            lambda engine: _backend_problems(engine, ModelConfig()) + _deepspeed_problems(engine),
        ),
        "model": (ModelConfig, _weights_problems),
    }
    problems = []
    for name, (section, check) in sections.items():
        with contextlib.suppress(ValidationError):
            problems += check(section.model_validate(settings.get(name, {})))
    if isinstance(settings.get("run_dir"), str):
        problems += RunFolder(settings["run_dir"]).problems()
    return problems


def exit_code(work: Callable[[], int], again: str = "goes on from the last checkpoint") -> int:
    """Return `work()`, or 2 after printing what the user has to fix; what a host's processes share is told by one.

    A task of mpirun gets its rank first. Each host tells its own faults, since another may have none.

    A process that another one left alone ends with 1 and a sentence: the reason is where the other one ended.

    Args:
        work: What is done.
        again: What the same command does when it is given again.
    """
    try:
        take_ranks()
        return work()
    except UserError as fault:
        place = this_place()
        if place.local_rank == 0 or not isinstance(fault, SharedError):
            print(f"error: {place.told(str(fault))}", file=sys.stderr, flush=True)  # noqa: T201
        return USER_ERROR
    except RuntimeError as fault:
        from sclds.train.corruption import CorruptionError
        from sclds.train.distributed import how_lost, lost_peer

        if isinstance(fault, CorruptionError):
            if this_place().rank == 0:
                print(f"error: {fault}", file=sys.stderr, flush=True)  # noqa: T201
            return PEER_LOST
        if not lost_peer(fault):
            raise
        print(  # noqa: T201
            f"error: rank {this_place().rank} {how_lost(fault)}; the same command {again}",
            file=sys.stderr,
            flush=True,
        )
        return PEER_LOST


def _split_problems(batch: BatchConfig, world_size: int) -> list[str]:
    from sclds.batch.split import split_batch

    try:
        split_batch(batch, world_size)
    except ConfigError as fault:
        return fault.problems
    return []


def _task_in(settings: Any) -> str | None:
    """Return the name of the task of settings that are no configuration; "" of one that is not known."""
    from sclds.tasks import TASKS

    task = settings.get("task")
    if task is None:
        return None
    name = task.get("name") if isinstance(task, dict) else None
    return name if isinstance(name, str) and name in TASKS else ""


def _data_problems(data: DataConfig, task: str | None, text: TextConfig | None = None) -> list[str]:
    """Return what is wrong with shards and tokenizer; "" is a task of which it is not known what shards hold."""
    from sclds.data.storage.shards import data_problems
    from sclds.tasks import TASKS
    from sclds.tasks.annotations import annotation_problems

    problems = []
    if task is None or (task and TASKS[task].reads_captions):
        problems = data_problems(data)
    elif task:
        problems = annotation_problems(TASKS[task], data, (*data.train, *data.heldout))
    return problems + _tokenizer_problems(data, text)


def _tokenizer_problems(data: DataConfig, text: TextConfig | None) -> list[str]:
    """Return why the tokenizer cannot be loaded, or what the text tower lacks for it: rows for words or for places."""
    from sclds.data.tokenizer import load_tokenizer

    try:
        tokenizer = load_tokenizer(data.tokenizer)
    except UserError as fault:
        return [f"data.tokenizer={data.tokenizer}: {fault}"]
    if text is None:
        return []
    problems = []
    if 0 < text.vocab_size < tokenizer.vocab_size:
        problems.append(
            f"model.text.vocab_size={text.vocab_size} has fewer rows than data.tokenizer={tokenizer.name} has ids, "
            f"{tokenizer.vocab_size}; use 0, which takes the tokenizer's"
        )
    positions = data.max_text_tokens + tokenizer.pad_id + 1
    if positions > text.max_positions:
        problems.append(
            f"model.text.max_positions={text.max_positions} has no row for every position of "
            f"data.max_text_tokens={data.max_text_tokens}, which takes {positions}; raise the one or lower the other"
        )
    return problems


def _best_problems(config: Config) -> list[str]:
    if config.checkpoint.best is None:
        return []
    from sclds.evaluation.tasks import figure_names

    names = figure_names(config)
    if config.checkpoint.best in names:
        return []
    near = difflib.get_close_matches(config.checkpoint.best, names, n=3, cutoff=0.0)
    return [f"checkpoint.best={config.checkpoint.best} is no figure of this run; the nearest are {', '.join(near)}"]


def _alignment_problems(config: Config) -> list[str]:
    from sclds.evaluation.alignment import alignment_problems

    return alignment_problems(config)


def _optimizer_problems(optimizer: OptimizerConfig) -> list[str]:
    from sclds.train.optimizer import implementation_problems

    return implementation_problems(optimizer)


def _backend_problems(engine: EngineConfig, model: ModelConfig) -> list[str]:
    from sclds.machine.implementations import implementation_problems, this_machine

    return implementation_problems(engine, model, this_machine())


def _accelerator_problems(place: Place, hostfile: bool) -> list[str]:
    """Return what keeps this host from a run on accelerators: it has none, or fewer than processes."""
    if place.world_size == 1 and not hostfile:
        return []
    from deepspeed.accelerator import get_accelerator

    accelerator = get_accelerator()
    on_cpu = accelerator.device_name() == "cpu"
    if on_cpu and (os.environ.get("DS_ACCELERATOR") == "cpu" or not (hostfile or place.several_hosts)):
        return []
    count, processes = 0 if on_cpu else accelerator.device_count(), place.local_size or place.local_rank + 1
    if count == 0:
        return [
            f"{place.host} has no GPU that torch can use, and a run over hosts does not train on the CPU unasked; see "
            f"sclds doctor there, or export DS_ACCELERATOR=cpu"
        ]
    if processes > count:
        return [f"{place.host} was given {processes} processes and has {count} GPUs; give it slots={count}"]
    return []


def _driver_problems(place: Place) -> list[str]:
    """Return a sentence where torch would pass over this host's GPUs without a word."""
    from sclds.machine.driver import driver_problem

    problem = None if os.environ.get("DS_ACCELERATOR") == "cpu" else driver_problem()
    return [] if problem is None else [f"{place.host}: {problem}; or export DS_ACCELERATOR=cpu to train on the CPU"]


def _decoder_problems(data: DataConfig) -> list[str]:
    from sclds.machine.packages import DISTRIBUTIONS, installed_version

    if not any(map(installed_version, DISTRIBUTIONS["dali"])):
        return [
            f"NVIDIA DALI, which decodes images and videos, is not installed (none of "
            f"{', '.join(DISTRIBUTIONS['dali'])}): install this package with one of its extras cpu, gpu-cu12, gpu-cu13"
        ]
    from sclds.data.media.decode import check_device

    try:
        check_device(data)
    except ConfigError as fault:
        return fault.problems
    return []


def _deepspeed_problems(engine: EngineConfig) -> list[str]:
    from sclds.train.deepspeed_settings import deepspeed_problems

    return deepspeed_problems(engine)


def _offload_problems(config: Config) -> list[str]:
    from sclds.train.deepspeed_settings import offload_problems

    return offload_problems(config)


def _start_problems(settings: Any, config: Config) -> list[str]:
    """Return what stands between the run and the weights in `model.init_from`: other ones, other sizes, other words."""
    problems = architecture_problems(settings) + _weights_problems(config.model)
    if problems or config.model.init_from is None:
        return problems
    from tokenizers import Tokenizer as Backend

    from sclds.data.tokenizer import load_tokenizer

    source = Path(config.model.init_from)
    folder = (source if source.is_dir() else source.parent) / TOKENIZER
    try:
        theirs = Backend.from_file(str(folder / "tokenizer.json")).get_vocab()
        ours = Backend.from_str(load_tokenizer(config.data.tokenizer).to_json()).get_vocab()
    except Exception:  # the weights came without their tokenizer; a run's that cannot be loaded is told elsewhere
        return []
    if theirs == ours:
        return []
    return [
        f"data.tokenizer={config.data.tokenizer} has other words or ids than {folder}, which the weights of "
        f"model.init_from were trained with; leave the setting out, or give that folder"
    ]


def _weights_problems(model: ModelConfig) -> list[str]:
    from sclds.train.engine import weights_file

    try:
        if model.init_from:
            weights_file(Path(model.init_from))
    except UserError as fault:
        return [str(fault)]
    return []
