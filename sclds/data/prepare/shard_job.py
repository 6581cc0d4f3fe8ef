"""One shard of a public data set: its images or videos opened, judged, copied unchanged; and an account of all of it.

The bytes follow from the records and the files alone, so it does not matter which process writes a shard, and when.
"""

import base64
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sclds.data.captions import clean_captions
from sclds.data.media.inspection import inspect
from sclds.data.prepare.encode import sample_json, write_shard
from sclds.data.prepare.lists import is_utf8
from sclds.data.prepare.records import Dropped, Record
from sclds.data.storage.files import as_path
from sclds.data.storage.shards import EXTENSIONS, BadSampleError, Kind
from sclds.data.storage.tar_members import CHECKSUMS, NOT_CAPTIONS
from sclds.run.files import write_atomically

ACCOUNTS = "accounts"
"""Folder beside the shards that holds an account of each: what is in it and what was dropped."""
_VERSION = 2
"""Raise it when the same records give other bytes; checksums beside questions came without: nothing fails for want of
them."""
_NOT_UTF8 = "its caption is not UTF-8"
_ENDINGS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif"}


@dataclass(frozen=True)
class ShardJob:
    """What goes into one shard.

    Attributes:
        number: Of the shard, from 0.
        folder: Where it is written.
        kind: What a sample shows.
        member: Extension of the JSON member.
        items: Its records, and entries that were dropped already.
    """

    number: int
    folder: Path
    kind: Kind
    member: str
    items: tuple[Record | Dropped, ...]

    @property
    def shard(self) -> Path:
        """Path of the tar."""
        return self.folder / f"{self.number:05d}.tar"

    @property
    def account(self) -> Path:
        """Path of the account, written last: where it lies, the shard is complete."""
        return self.folder / ACCOUNTS / f"{self.number:05d}.json"

    def fingerprint(self) -> str:
        """Return a hash of what the shard was to be made from."""
        told = json.dumps([_VERSION, self.kind, self.member, [asdict(item) for item in self.items]], sort_keys=True)
        return blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass
class Account:
    """What became of the records of a shard.

    Attributes:
        fingerprint: Of the job.
        kept: Samples in the shard.
        size: Bytes of the shard; 0 where nothing was kept and there is none.
        dropped: Entries without a sample, with their reasons.
        words: How many captions have how many words.
        left_out: How many parts of samples that were kept could not be used, by reason.
        media: (samples,) uint64 hash of the bytes of each sample's images or video.
        texts: (captions,) uint64 hash of each caption.
    """

    fingerprint: str
    kept: int = 0
    size: int = 0
    dropped: list[Dropped] = field(default_factory=list)
    words: Counter[int] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    media: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    texts: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))

    def save(self, path: Path) -> None:
        """Write the account; it appears only when complete."""
        tree = asdict(self) | {"words": {str(n): c for n, c in sorted(self.words.items())}}
        tree |= {"left_out": dict(sorted(self.left_out.items()))}
        tree |= {name: base64.b64encode(tree[name].tobytes()).decode() for name in ("media", "texts")}
        write_json(path, tree)


def load_account(path: Path) -> Account:
    """Read an account.

    Raises:
        ValueError: It is not one.
    """
    tree = json.loads(path.read_text(encoding="utf-8"))
    arrays = {name: np.frombuffer(base64.b64decode(tree[name]), np.uint64) for name in ("media", "texts")}
    words = Counter({int(n): c for n, c in tree["words"].items()})
    dropped = [Dropped(**entry) for entry in tree["dropped"]]
    return Account(**{**tree, **arrays, "words": words, "dropped": dropped, "left_out": Counter(tree["left_out"])})


def write_json(path: Path, tree: Any) -> None:
    """Write a JSON file that appears only when complete; texts that are not Unicode are escaped."""
    write_atomically(path, json.dumps(tree, indent=1) + "\n")


def write_one(job: ShardJob) -> Account:
    """Write a shard and its account.

    Raises:
        OSError: The shard cannot be written; a file that cannot be read only drops its sample.
    """
    account = Account(job.fingerprint())
    media: list[int] = []
    texts: list[int] = []
    write_shard(job.shard, _members(job, account, media, texts))
    if account.kept:
        account.size = job.shard.stat().st_size
    else:
        job.shard.unlink()
    account.media, account.texts = np.array(media, np.uint64), np.array(texts, np.uint64)
    account.save(job.account)
    return account


def _members(job: ShardJob, account: Account, media: list[int], texts: list[int]) -> Iterator[tuple[str, bytes]]:
    """Yield the members of every record that can be used, and note what became of each."""
    for item in job.items:
        if isinstance(item, Dropped):
            account.dropped.append(item)
            continue
        file = item.files[0][1]
        try:
            captions, left_out = _clean(item.captions)
            opened = []
            for role, file in item.files:
                opened.append((role, *_open(job.kind, Path(as_path(file)))))
            member = _json(job.member, captions, item.fields, [content for *_, content in opened])
        except BadSampleError as fault:
            account.dropped.append(Dropped(item.key, file, str(fault), item.place))
            continue
        account.kept += 1
        account.left_out.update((*left_out, *item.left_out))
        account.words.update(len(caption.split()) for caption in captions)
        media.append(_hash(b"".join(content for *_, content in opened)))
        texts += [text_hash(caption) for caption in captions]
        for role, ending, content in opened:
            yield ".".join(filter(None, (item.key, role, ending))), content
        yield f"{item.key}.{job.member}", member


def _clean(captions: tuple[Any, ...]) -> tuple[list[str], list[str]]:
    """Return the captions that can be used, at least one, and for each of the others why it cannot."""
    written = [caption for caption in captions if not isinstance(caption, str) or is_utf8(caption)]
    kept, left_out = clean_captions(written)
    left_out += [_NOT_UTF8] * (len(captions) - len(written))
    if not kept:
        raise BadSampleError(Counter(left_out).most_common(1)[0][0] if left_out else "it has no caption")
    return kept, left_out


def _open(kind: Kind, path: Path) -> tuple[str, bytes]:
    """Return the extension and the bytes of an image or video that can be opened."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as fault:
        raise BadSampleError("its file is missing") from fault
    except OSError as fault:
        raise BadSampleError(f"its file cannot be read ({fault.strerror})") from fault
    if not content:
        raise BadSampleError("its file is empty")
    codec = inspect(kind, content).codec
    ending = _ENDINGS[codec] if kind == "image" else path.suffix[1:].lower()
    if ending not in EXTENSIONS[kind]:
        raise BadSampleError(f"its file is of a form that is not used ({path.suffix})")
    return ending, content


def _json(member: str, captions: list[str], fields: dict[str, Any], contents: list[bytes]) -> bytes:
    """Return the JSON member: the first caption, all of them where there are several, and the source's own fields.

    Beside questions and statements stand the checksums of the images: their shards have no index, and by these a run
    tells images that it learns from and measures on.
    """
    said: dict[str, Any] = {}
    if member == "json":
        said = {"caption": captions[0]} | ({"captions": captions} if len(captions) > 1 else {})
    elif member in NOT_CAPTIONS:
        said = {CHECKSUMS: [zlib.crc32(content) for content in contents]}
    return sample_json(fields | said)


def text_hash(text: str) -> int:
    """Return 64 bits that stand for a text."""
    return _hash(text.encode("utf-8", "surrogatepass"))


def _hash(content: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little")
