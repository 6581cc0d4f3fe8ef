"""Which version of a package is installed."""

from importlib import metadata


def installed_version(distribution: str) -> str | None:
    """Return the version of a distribution, by its name on an index; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
