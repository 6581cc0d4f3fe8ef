"""openclipart images as captioned items: PNG of one Debian package, title and keywords of the SVG in the other."""

import html
import re
import struct
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sclds.data.prepare.captions import concept_of, described, openclipart_title
from sclds.data.prepare.item import Item
from sclds.data.prepare.packages import archive_files

_SVG_ROOT = "usr/share/openclipart/svg/"
_PNG_ROOT = "usr/share/openclipart/png/"
_PUBLIC_DOMAIN = re.compile(r'cc:license rdf:resource="[^"]*public ?domain', re.I)
# 1,378 hair-line star polygons that are white at 64 pixels, and a KDE theme whose only names are command names.
_LEFT_OUT = ("shapes/stars/", "computer/icons/flat-theme/")
# Served for training only: names of commands, and facts that nobody can infer from other images (which letter a
# signal flag means, which country a flag is of).
_NOT_HOLDABLE = re.compile(r"-theme/|cards/|semaphore|signalflag|symbols/led|jigsaw|flags/|computer/buttons|hotel_icon")
# A few posters have hundreds of millions of pixels, which cost more memory and time than they teach.
_MAX_PIXELS = 12_000_000
_SUITS = {"c": "clubs", "d": "diamonds", "h": "hearts", "s": "spades"}
_RANKS = {"a": "ace", "j": "jack", "q": "queen", "k": "king"}
# Not for a data set that everyone who installs the package gets.
_UNSUITED = frozenset("sex sexy nude naked erotic porn xxx nazi swastika pantyhose".split())
# What a folder's images are called where the file name is a number.
_SERIES_NAMES = {
    "people/smilies": "smiley face",
    "people/stickmen": "stick man",
    "shapes/flowchart": "flowchart shape",
    "shapes/callouts": "speech bubble",
    "shapes/arrows": "arrow",
    "signs_and_symbols/clocks": "clock",
    "buildings/homes": "house",
    "transportation/vehicles/hummers": "hummer car",
    "geography": "map",
    "office": "office",
    "computer/buttons": "button",
}


@dataclass(frozen=True)
class Metadata:
    """What an SVG says of itself; each may be empty."""

    title: str
    description: str
    keywords: list[str]
    author: str
    public_domain: bool


def read_metadata(svg: bytes) -> Metadata:
    """Read the RDF block of an SVG; by pattern, because a part of the collection is not well-formed XML."""
    text = svg.decode("utf-8", "replace")
    block = re.search(r"<metadata.*?</metadata>", text, re.S)
    rdf = block[0] if block else ""

    def first(pattern: str) -> str:
        found = re.search(pattern, rdf, re.S)
        return html.unescape(found[1]).strip() if found else ""

    keywords = re.findall(r"<rdf:li>(.*?)</rdf:li>", first(r"<dc:subject>(.*?)</dc:subject>"), re.S)
    return Metadata(
        title=first(r"<dc:title>(.*?)</dc:title>"),
        description=first(r"<dc:description>(.*?)</dc:description>"),
        keywords=[html.unescape(k).strip() for k in keywords if k.strip()],
        author=first(r"<dc:creator>.*?<dc:title>(.*?)</dc:title>"),
        public_domain=bool(_PUBLIC_DOMAIN.search(rdf)),
    )


def image_items(png_archive: Path, svg_archive: Path) -> Iterator[tuple[Item, bytes]]:
    """Yield every usable image with its caption and its PNG, in the archive's order.

    Left out: what is not marked public domain, what has no name, and the folders in `_LEFT_OUT`.

    Args:
        png_archive: Archive of openclipart-png.
        svg_archive: Archive of openclipart-svg.
    """
    by_path: dict[str, Metadata] = {}
    by_stem: dict[str, Metadata] = {}
    for path, content in archive_files(svg_archive):
        if path.startswith(_SVG_ROOT) and path.endswith(".svg"):
            said = read_metadata(content)
            by_path[path.removeprefix(_SVG_ROOT)[:-4]] = said
            by_stem.setdefault(PurePosixPath(path).stem, said)
    taken: set[str] = set()
    for path, content in archive_files(png_archive):
        place = path.removeprefix(_PNG_ROOT)[:-4]
        if not path.startswith(_PNG_ROOT) or not path.endswith(".png") or place.startswith(_LEFT_OUT):
            continue
        if _pixels(content) > _MAX_PIXELS:
            continue
        metadata = by_path.get(place) or by_stem.get(PurePosixPath(place).name)
        item = _item(PurePosixPath(place), metadata, taken) if metadata and metadata.public_domain else None
        if item is not None:
            yield item, content


def _item(place: PurePosixPath, metadata: Metadata, taken: set[str]) -> Item | None:
    folder = str(place.parent)
    if _UNSUITED & set(re.findall("[a-z]+", " ".join([folder, metadata.title, *metadata.keywords]).lower())):
        return None
    title = _card(place) or openclipart_title(metadata.title, place.name, metadata.author)
    series = _SERIES_NAMES.get(folder, "")
    own_name = bool(re.search(r"[^\W\d]{3}", title))
    if series and (not own_name or re.fullmatch(r"(\w{1,3} )?(fc|sm|smiley|arrow|clock|home|tasto|blueman).*", title)):
        title = series
    elif not own_name:
        return None
    if "/flags/" in f"/{folder}/" and "flag" not in title:
        title = f"flag of {title}"
    category = [p.replace("_", " ").replace("-", " ") for p in reversed(place.parent.parts)]
    extra = [*(k.replace("_", " ") if k.lower() != k else k for k in metadata.keywords), *category[:1]]
    caption = described(title, metadata.description, extra)
    key = "clipart-" + _ascii(place.name)
    while key in taken:
        key += "-b"
    taken.add(key)
    return Item(
        key,
        caption,
        concept_of(title),
        title,
        "openclipart",
        "public domain",
        holdable=own_name and title != series and not _NOT_HOLDABLE.search(str(place)),
    )


def _pixels(png: bytes) -> int:
    """Return width x height out of the header chunk, which stands first in every PNG."""
    width, height = struct.unpack(">II", png[16:24])
    return int(width * height)


def _card(place: PurePosixPath) -> str:
    found = re.fullmatch(r"([a-z]+)_([cdhs])_(\d+|[ajqk])", place.name)
    if found is None or place.parent.parent.name != "cards":
        return ""
    return f"{_RANKS.get(found[3], found[3])} of {_SUITS[found[2]]} {found[1]} playing card"


def _ascii(stem: str) -> str:
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
