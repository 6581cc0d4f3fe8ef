"""Exceptions that a user caused and can fix: a sentence with place and remedy; they exit 2 without a traceback."""


class UserError(ValueError):
    """Something that the user gave is wrong; the message says what, where, and what to do."""


class SharedError(UserError):
    """What all processes of a host find alike, so that one of them tells it."""


class ConfigError(SharedError):
    """One or several faults of a configuration, all reported at once.

    Args:
        problems: One sentence a fault, each naming the key and the remedy.
    """

    def __init__(self, problems: list[str]):
        self.problems = problems
        head = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{head} in the configuration:\n" + "\n".join(f"  - {p}" for p in problems))


class DataError(UserError):
    """Shards or samples cannot be used as they are."""


class CheckpointError(UserError):
    """A checkpoint cannot be read, or does not fit the configuration."""


class SharedCheckpointError(CheckpointError, SharedError):
    """All ranks have found together that no checkpoint can be used."""
