"""Emoji images and animations as captioned items, named by Unicode CLDR and the image set."""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sclds.data.prepare.captions import concept_of, described, plain_words
from sclds.data.prepare.item import Item
from sclds.data.prepare.packages import archive_files

_SKIN_TONES = {
    "1f3fb": "light",
    "1f3fc": "medium-light",
    "1f3fd": "medium",
    "1f3fe": "medium-dark",
    "1f3ff": "dark",
}
_VARIATION_SELECTOR = "fe0f"
_KEYWORDS = 4
_ENGLISH = "package/annotations/en/annotations.json"


@dataclass(frozen=True)
class EmojiNames:
    """Names, keywords and categories by code points without variation selectors and skin tones, joined by '-'."""

    name: dict[str, str]
    keywords: dict[str, list[str]]
    category: dict[str, str]


def read_names(cldr: Path, images: Path) -> EmojiNames:
    """Read English names and keywords of CLDR, and names and categories of the image set for what CLDR leaves out.

    Args:
        cldr: Archive of cldr-annotations-full.
        images: Archive of emoji-datasource-google.
    """
    names: dict[str, str] = {}
    keywords: dict[str, list[str]] = {}
    categories: dict[str, str] = {}
    listing: list[dict[str, Any]] = json.loads(dict(_wanted(images, {"package/emoji.json"}))["package/emoji.json"])
    for entry in listing:
        code = _bare(entry["unified"])
        name = entry["name"].lower()
        flag = re.fullmatch(r"(.*) flag", name) if entry["category"] == "Flags" else None
        names[code] = f"flag of {flag[1]}" if flag else name
        categories[code] = re.sub(r"-", " ", entry["subcategory"])
    annotations = json.loads(dict(_wanted(cldr, {_ENGLISH}))[_ENGLISH])["annotations"]["annotations"]
    for text, entry in annotations.items():
        code = _bare("-".join(f"{ord(c):x}" for c in text))
        if code in names and "tts" in entry:
            names[code] = entry["tts"][0].lower()
            keywords[code] = entry.get("default", [])
    return EmojiNames(names, keywords, categories)


def _wanted(archive: Path, paths: set[str]) -> Iterator[tuple[str, bytes]]:
    return (found for found in archive_files(archive) if found[0] in paths)


def _bare(code: str) -> str:
    return "-".join(c for c in re.split("[-_]", code.lower()) if c != _VARIATION_SELECTOR and c not in _SKIN_TONES)


def image_items(archive: Path, names: EmojiNames) -> Iterator[tuple[Item, bytes]]:
    """Yield every emoji image with its caption and its PNG, base images and skin tones alike."""
    for path, content in archive_files(archive):
        if path.startswith("package/img/google/64/") and path.endswith(".png"):
            item = _item(Path(path).stem, names, "emoji", "emoji-datasource-google", "Apache-2.0")
            if item is not None:
                yield item, content


def video_items(archive: Path, names: EmojiNames, source: str) -> Iterator[tuple[Item, bytes]]:
    """Yield every animation that moves, with its caption and its WebP.

    Stills are left out, and so are skin tones: five more videos of one motion teach nothing that their size is worth.

    Args:
        archive: One of the packages of animations.
        names: Captions by code points.
        source: The package's name.
    """
    for path, content in archive_files(archive):
        if not path.endswith(".webp") or _tones(Path(path).stem):
            continue
        with Image.open(io.BytesIO(content)) as animation:
            moves = getattr(animation, "n_frames", 1) > 1
        item = _item(Path(path).stem, names, "clip", source, "MIT") if moves else None
        if item is not None:
            yield item, content


def _tones(stem: str) -> list[str]:
    return [_SKIN_TONES[c] for c in re.split("[-_]", stem.lower()) if c in _SKIN_TONES]


def _item(stem: str, names: EmojiNames, prefix: str, source: str, licence: str) -> Item | None:
    code = _bare(stem)
    if code not in names.name:
        return None
    title = plain_words(names.name[code].replace("⊛", ""))
    tones = _tones(stem)
    category = names.category[code]
    extra = [*names.keywords.get(code, [])[:_KEYWORDS], category]
    caption = described(title + (f" with {' and '.join(tones)} skin tone" if tones else ""), "", extra)
    key = f"{prefix}-{stem.lower().replace('_', '-')}"
    return Item(
        key,
        caption,
        concept_of(title),
        title,
        source,
        licence,
        variant=bool(tones),
        same_as=code,
        holdable=not title.startswith("flag of"),  # nobody can infer a country's flag from other images
    )
