"""Rebuild the image and video shards and the tokenizer that ship inside the package, from public packages.

Stages, each resumable: fetch the archives (kept in the cache), encode every sample (kept in the cache, one file each),
split by concept, write shards, train the tokenizer, copy licences, write the manifest. With the versions that the
manifest records the result is the same byte for byte.
"""

import hashlib
import importlib.resources
import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import PIL
import tokenizers
from PIL import Image

from sclds.config.errors import UserError
from sclds.data.prepare import emoji, encode, openclipart
from sclds.data.prepare.item import Item
from sclds.data.prepare.packages import Package, archive_files, fetch
from sclds.data.prepare.progress import counting
from sclds.data.prepare.split import (
    Fingerprint,
    Split,
    fingerprint,
    groups_of,
    key_of,
    near_duplicates,
    split_by_concept,
)
from sclds.data.tokenizer import EMBEDDED_TOKENIZER, train_tokenizer
from sclds.run.files import write_atomically

EMOJI = Package(
    "npm",
    "emoji-datasource-google",
    "16.0.0",
    "emoji-datasource-google-16.0.0.tgz",
    "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    "Apache-2.0",
)
CLDR = Package(
    "npm",
    "cldr-annotations-full",
    "48.2.0",
    "cldr-annotations-full-48.2.0.tgz",
    "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
    "Unicode-3.0",
)
FLUENT = tuple(
    Package(
        "npm",
        f"@lobehub/fluent-emoji-anim-{number}",
        "1.0.0",
        f"lobehub-fluent-emoji-anim-{number}-1.0.0.tgz",
        sha256,
        "MIT",
    )
    for number, sha256 in (
        (1, "4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea"),
        (2, "e431da8172e394036c330faa77648d6fbbae1fd3b0be95637c4497c9075019c0"),
        (3, "3624d0c34c819c1794b74ccf6ae9034adff7c4cb6318dd2a645145f0196feb43"),
        (4, "3d4c08f1e321f70808ef4996aba0ab575a9d97b6c56ffffc92cf6161a7836aa3"),
    )
)
CLIPART_PNG = Package(
    "apt",
    "openclipart-png",
    "1:0.18+dfsg-19",
    "openclipart-png_1%3a0.18+dfsg-19_all.deb",
    "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    "public domain",
)
CLIPART_SVG = Package(
    "apt",
    "openclipart-svg",
    "1:0.18+dfsg-19",
    "openclipart-svg_1%3a0.18+dfsg-19_all.deb",
    "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
    "public domain",
)
PACKAGES = (EMOJI, CLDR, *FLUENT, CLIPART_PNG, CLIPART_SVG)
FOLDERS = ("images-train", "images-heldout", "clips-train", "clips-heldout")

_HELDOUT_IMAGES = 448
_HELDOUT_CLIPS = 64
_TRAIN_IMAGES = 6000
"""Training images; skin tones are left out first, so that all folders together stay under 20 MB."""
_SHARD_SAMPLES = 1600
_VOCABULARY = 4096
_ENCODER = "2"
"""Name of the encoders' parameters in the cache: raise it when one changes."""

_FAINT = 24
"""An image whose gray values span less than this (of 255) shows nearly nothing."""


@dataclass(frozen=True)
class Sample:
    """An item with its encoded image or video, and the fingerprint of what it shows."""

    item: Item
    content: bytes
    print: Fingerprint


def embedded_folder(name: str) -> Path:
    """Return the folder of shards `name` inside the package, such as "images-train".

    Raises:
        UserError: There is no folder of that name.
    """
    if name not in FOLDERS:
        raise UserError(f"There is no embedded data set {name!r}: use one of {', '.join(FOLDERS)}.")
    return Path(str(importlib.resources.files("sclds.data") / "embedded" / name))


def prepare_embedded(destination: Path, cache: Path) -> dict[str, int]:
    """Rebuild all shards, the tokenizer, the licences and the manifest; a killed run continues from the cache.

    Args:
        destination: Folder that becomes a copy of the package's `data/embedded`.
        cache: Folder for archives (1 GB) and encoded samples (10 MB).

    Returns:
        Samples a folder.

    Raises:
        UserError: An archive cannot be fetched or is not the pinned one.
    """
    for package in PACKAGES:
        fetch(package, cache)
    samples = list(_samples(cache))
    items = [s.item for s in samples]
    groups = groups_of(items, near_duplicates([s.print for s in samples]))
    split = split_by_concept(items, groups, _HELDOUT_IMAGES, _HELDOUT_CLIPS)
    chosen = _chosen(samples, split)
    counts = {name: _write_folder(destination / name, chosen[name]) for name in FOLDERS}
    captions = [s.item.caption for name in FOLDERS if name.endswith("-train") for s in chosen[name]]
    train_tokenizer(captions, _VOCABULARY, destination / EMBEDDED_TOKENIZER)
    _write_licences(destination, cache)
    _write_manifest(destination, counts)
    return counts


def _samples(cache: Path) -> Iterator[Sample]:
    """Yield every sample, sorted by key, encoding what the cache does not hold."""
    store = cache / f"encoded-{_ENCODER}-pillow{PIL.__version__}-av{av.__version__}"
    store.mkdir(parents=True, exist_ok=True)
    names = emoji.read_names(cache / CLDR.archive, cache / EMOJI.archive)
    images = (
        *emoji.image_items(cache / EMOJI.archive, names),
        *openclipart.image_items(cache / CLIPART_PNG.archive, cache / CLIPART_SVG.archive),
    )
    videos = [video for package in FLUENT for video in emoji.video_items(cache / package.archive, names, package.name)]

    def encoded(found: tuple[Item, bytes]) -> Sample | None:
        item, source = found
        is_video = item.key.startswith("clip-")
        path = store / f"{item.key}.{'webm' if is_video else 'webp'}"
        if not path.exists():
            with Image.open(io.BytesIO(source)) as image:
                frames = encode.animation_frames(image) if is_video else []
                content = encode.encode_video(frames) if is_video else encode.encode_image(image)
            write_atomically(path, content)
        content = path.read_bytes()
        shown = _shown(content, is_video)
        return None if _blank(shown) else Sample(item, content, fingerprint(shown))

    done = []
    with ThreadPoolExecutor(2) as pool, counting("encoding", len(images) + len(videos)) as advance:
        for sample in pool.map(encoded, (*images, *videos)):
            done.append(sample)
            advance(1)
    yield from sorted((s for s in done if s is not None), key=lambda s: s.item.key)


def _shown(content: bytes, is_video: bool) -> Image.Image:
    """Return the decoded image, or the middle frame of a video."""
    if not is_video:
        return Image.open(io.BytesIO(content)).convert("RGB")
    with av.open(io.BytesIO(content), "r") as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    return frames[len(frames) // 2]


def _blank(image: Image.Image) -> bool:
    """Say whether nearly nothing is to be seen, as of hair lines drawn for print."""
    gray = np.asarray(image.convert("L"))
    return int(gray.max()) - int(gray.min()) < _FAINT


def _chosen(samples: Sequence[Sample], split: Split) -> dict[str, list[Sample]]:
    """Return the samples a folder, sorted by key; training images without repeats, skin tones only to fill up."""
    unique: dict[bytes, Sample] = {}
    by_need = sorted((samples[i] for i in split.images_train), key=lambda s: (s.item.variant, key_of(s.item.key)))
    for sample in by_need:
        unique.setdefault(hashlib.sha256(sample.content).digest(), sample)
    train = list(unique.values())[:_TRAIN_IMAGES]
    parts = (
        train,
        [samples[i] for i in split.images_heldout],
        [samples[i] for i in split.videos_train],
        [samples[i] for i in split.videos_heldout],
    )
    return {name: sorted(part, key=lambda s: s.item.key) for name, part in zip(FOLDERS, parts, strict=True)}


def _write_folder(folder: Path, samples: Sequence[Sample]) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.tar"):
        stale.unlink()
    ending = "webm" if folder.name.startswith("clips") else "webp"
    shards = max(1, -(-len(samples) // _SHARD_SAMPLES))
    for n in range(shards):
        members: list[tuple[str, bytes]] = []
        for sample in samples[n::shards]:  # every n-th, so that each shard has a fair share of every source
            members.append((f"{sample.item.key}.{ending}", sample.content))
            members.append((f"{sample.item.key}.json", encode.sample_json(sample.item.fields())))
        encode.write_shard(folder / f"{n:05d}.tar", members)
    return len(samples)


def _write_licences(destination: Path, cache: Path) -> None:
    """Copy the licence texts of the packages, and from this package the README and the notices they do not ship."""
    folder = destination / "LICENSES"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = (
        (EMOJI, "package/LICENSE", "emoji-datasource-google.txt"),
        (CLDR, "package/LICENSE", "cldr-annotations-full.txt"),
        (CLIPART_SVG, "usr/share/doc/openclipart-svg/copyright", "openclipart.txt"),
    )
    for package, path, target in wanted:
        content = next(content for name, content in archive_files(cache / package.archive) if name == path)
        (folder / target).write_bytes(content)
    own = Path(str(importlib.resources.files("sclds.data") / "embedded"))
    for name in ("LICENSES/noto-emoji.txt", "LICENSES/fluent-emoji-anim.txt", "README.md"):
        (destination / name).write_bytes((own / name).read_bytes())


def _write_manifest(destination: Path, counts: dict[str, int]) -> None:
    """Record what was built from what with what, and the SHA-256 of every built file."""
    built = [*(p for name in FOLDERS for p in (destination / name).glob("*.tar")), destination / EMBEDDED_TOKENIZER]
    sums = {p.relative_to(destination).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(built)}
    manifest = {
        "packages": {p.name: {"version": p.version, "sha256": p.sha256, "licence": p.licence} for p in PACKAGES},
        "built_with": {"pillow": PIL.__version__, "av": av.__version__, "tokenizers": tokenizers.__version__},
        "samples": counts,
        "sha256": sums,
    }
    (destination / "MANIFEST.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
