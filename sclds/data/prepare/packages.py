"""Fetch pinned public packages through their own clients and read files out of them.

Nothing is installed: `npm pack` and `apt-get download` only put an archive into the cache folder, whose SHA-256 must
then be the pinned one. An archive that lies there already is used as it is, so a second run needs no network.
"""

import hashlib
import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sclds.config.errors import DataError, UserError

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60


@dataclass(frozen=True)
class Package:
    """One archive of a package registry, pinned.

    Attributes:
        client: Which command line fetches it.
        name: The package's name in its registry.
        version: The exact version.
        archive: File name that the client gives the archive.
        sha256: Checksum of the archive, hexadecimal.
        licence: SPDX identifier (or plain name) of what we take out of it.
    """

    client: Literal["npm", "apt"]
    name: str
    version: str
    archive: str
    sha256: str
    licence: str

    @property
    def command(self) -> list[str]:
        """The command that fetches the archive into the current folder."""
        if self.client == "npm":
            return ["npm", "pack", "--silent", f"{self.name}@{self.version}"]
        return ["apt-get", "download", f"{self.name}={self.version}"]


def fetch(package: Package, cache: Path) -> Path:
    """Return the package's archive in `cache`, fetching it if it is not there.

    Args:
        package: What to fetch.
        cache: Folder of archives; made if missing.

    Returns:
        Path of the archive, checksum verified.

    Raises:
        UserError: The client is missing or failed, or the archive is not the pinned one.
    """
    cache.mkdir(parents=True, exist_ok=True)
    archive = cache / package.archive
    if not archive.exists():
        by_hand = f"or put {package.archive} (sha256 {package.sha256}) into {cache} yourself"
        if shutil.which(package.command[0]) is None:
            raise UserError(f"{package.command[0]} is needed to fetch {package.name}: install it, {by_hand}.")
        done = subprocess.run(
            package.command, cwd=cache, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
        if done.returncode != 0 or not archive.exists():
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"`{' '.join(package.command)}` failed ({reason}): try again, {by_hand}.")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        raise UserError(f"{archive} has sha256 {found}, not the pinned {package.sha256}: delete it and run again.")
    return archive


def archive_files(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (path inside the package, content) of every regular file, in the archive's order.

    Links are left out: in the packages read here they only repeat a file under a second category.

    Args:
        archive: A `.tgz` of npm or a `.deb` of Debian.

    Raises:
        DataError: The archive is not of either form.
    """
    if archive.suffix == ".deb":
        with tarfile.open(fileobj=io.BytesIO(_deb_data(archive)), mode="r|xz") as tar:
            yield from _regular_files(tar)
    else:
        with tarfile.open(archive, mode="r|gz") as tar:
            yield from _regular_files(tar)


def _regular_files(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in tar:
        content = tar.extractfile(member) if member.isreg() else None
        if content is not None:
            yield member.name.removeprefix("./"), content.read()


def _deb_data(archive: Path) -> bytes:
    """Return `data.tar.xz` of a Debian package, an `ar` archive of 60-byte headers and even-aligned members."""
    blob = archive.read_bytes()
    if not blob.startswith(_AR_MAGIC):
        raise DataError(f"{archive} is no Debian package: delete it and run again.")
    at = len(_AR_MAGIC)
    while at + _AR_HEADER <= len(blob):
        name = blob[at : at + 16].decode("ascii").strip().rstrip("/")
        size = int(blob[at + 48 : at + 58])
        body = at + _AR_HEADER
        if name == "data.tar.xz":
            return blob[body : body + size]
        at = body + size + size % 2
    raise DataError(f"{archive} holds no data.tar.xz: delete it and run again.")
