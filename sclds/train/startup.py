"""Start of a run: everything that can be wrong is found and told at once, before any process does work."""

import sys
from collections.abc import Callable
from pathlib import Path

from sclds.config import Config, load_config
from sclds.errors import ConfigError, UserError
from sclds.train.run_folder import RunFolder

USER_ERROR = 2
"""Exit code where the user's input is at fault."""


def checked_config(path: str | Path, overrides: list[str], world_size: int) -> Config:
    """Return the configuration of a run that can start here on `world_size` processes.

    Raises:
        ConfigError: With a sentence for everything that stands in the way.
    """
    config = load_config(path, overrides)
    checks: list[Callable[[], list[str]]] = [
        lambda: _split_problems(config, world_size),
        lambda: _data_problems(config),
        lambda: _tokenizer_problems(config),
        lambda: RunFolder(config.run_dir).problems(),
        lambda: _optimizer_problems(config),
        lambda: _backend_problems(config),
        lambda: _weights_problems(config),
        lambda: _resume_problems(config),
    ]
    problems = [problem for check in checks for problem in check()]
    if problems:
        raise ConfigError(problems)
    return config


def exit_code(work: Callable[[], int], rank: int) -> int:
    """Return `work()`, or 2 after printing what the user has to mend; settings, which all ranks share, on rank 0."""
    try:
        return work()
    except UserError as fault:
        if rank == 0 or not isinstance(fault, ConfigError):
            print(f"error: {fault}", file=sys.stderr, flush=True)  # noqa: T201
        return USER_ERROR


def _split_problems(config: Config, world_size: int) -> list[str]:
    from sclds.train.split import split_batch

    try:
        split_batch(config.batch, world_size)
    except ConfigError as fault:
        return fault.problems
    return []


def _data_problems(config: Config) -> list[str]:
    from sclds.data.shards import shard_problems

    return [problem for dataset in (*config.data.train, *config.data.heldout) for problem in shard_problems(dataset)]


def _tokenizer_problems(config: Config) -> list[str]:
    from sclds.data.tokenizer import load_tokenizer

    try:
        load_tokenizer(config.data.tokenizer)
    except UserError as fault:
        return [f"data.tokenizer={config.data.tokenizer}: {fault}"]
    return []


def _optimizer_problems(config: Config) -> list[str]:
    from sclds.train.optimizer import implementation_problems

    return implementation_problems(config.optimizer)


def _backend_problems(config: Config) -> list[str]:
    from sclds.model.attention import set_attention_backend

    try:
        set_attention_backend(
            config.engine.attention,
            config.engine.precision,
            max(config.model.text.dropout, config.model.fusion.dropout),
        )
    except ValueError as fault:
        return [str(fault)]
    return []


def _weights_problems(config: Config) -> list[str]:
    from sclds.train.engine import weights_file

    try:
        if config.model.init_from:
            weights_file(Path(config.model.init_from))
    except UserError as fault:
        return [str(fault)]
    return []


def _resume_problems(config: Config) -> list[str]:
    from sclds.train.checkpoint import newest_checkpoint, resume_problems

    checkpoint = newest_checkpoint(RunFolder(config.run_dir).checkpoints)
    return [] if checkpoint is None else resume_problems(checkpoint, config)
