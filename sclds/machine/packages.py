"""Which version of a package is installed."""

from importlib import metadata

DISTRIBUTIONS = {
    "deepspeed": ("deepspeed",),
    "triton": ("triton",),
    "dali": ("nvidia-dali-cuda120", "nvidia-dali-cuda130"),
    "transformers": ("transformers",),
    "flash-attn": ("flash-attn",),
    "sclds": ("sclds",),
}
"""Library → the packages that it comes in; the first that is installed counts."""


def installed_version(distribution: str) -> str | None:
    """Return the version of a distribution, by its name on an index; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
