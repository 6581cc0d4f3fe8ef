"""ALIGN-BENCH, the benchmark of alignment of the method's authors: attention that lies where a caption says.

A folder of it (hub data set jiyatai/ALIGN-BENCH) has `images/ID.jpg` and `pkls/ID.pkl`, a pickle of `{caption,
annotation: {phrase: [{bbox_mask: [x1, y1, x2, y2], pixel_mask: (height, width) bool}, …]}}`. Scores are those of
docs/method.md §6, pure functions of attention and regions. Pickles are of strangers, and are read by an unpickler that
knows arrays alone.
"""

import io
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sclds.config.errors import DataError
from sclds.data.captions import EMPTY, clean_caption
from sclds.data.media.images import upright_image
from sclds.data.storage.shards import BadSampleError

IMAGES, ANNOTATIONS = "images", "pkls"
WHOLE_IMAGE = 0.9
"""A box of more than this share of the image is left out of the global region."""
FORMS = ("box", "pixel")
"""How a region is drawn."""
_PASSED_OVER = ".,"
_MAKERS: tuple[Any, ...] = (np.zeros(1).__reduce__()[0], np.zeros(1).__reduce_ex__(5)[0], np.float64(0).__reduce__()[0])
_SAFE: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # numpy 1 and 2 name the same functions differently
    **{
        (maker.__module__.replace("_core", core), maker.__name__): maker
        for maker in _MAKERS
        for core in ("core", "_core")
    },
}
"""All that a pickle may name: what arrays are made of."""
Map = NDArray[np.float64]
"""(g, g), a value for each patch."""


@dataclass(frozen=True)
class Region:
    """Where something is that a phrase names."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels."""
    pixels: NDArray[np.bool_]
    """(height, width)."""

    def drawn(self, form: str) -> NDArray[np.bool_]:
        """Return the region at the image's size, as a `box` or by `pixel`."""
        if form == "pixel":
            return self.pixels
        mask = np.zeros_like(self.pixels)
        left, top, right, bottom = (max(0, round(edge)) for edge in self.box)
        mask[top:bottom, left:right] = True
        return mask

    @property
    def share(self) -> float:
        """Share of the image that the box takes."""
        return float(self.drawn("box").mean())


@dataclass(frozen=True)
class Pair:
    """An image, its caption, and where the caption's phrases are."""

    name: str
    image: Image.Image
    caption: str
    phrases: Mapping[str, Sequence[Region]]


class _Arrays(pickle.Unpickler):
    """Reads plain values and numpy arrays; nothing that a pickle names is run or imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # bytes of an old protocol are text in Latin-1
            return lambda text, encoding="latin1": text.encode("latin1")
        if (module, name) not in _SAFE:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        return _SAFE[module, name]


def pair_names(folder: Path) -> list[str]:
    """Return the names of all pairs of a folder, in order.

    Raises:
        DataError: It has none.
    """
    names = sorted(file.stem for file in (folder / ANNOTATIONS).glob("*.pkl"))
    if not names:
        raise DataError(
            f"{folder} is no folder of ALIGN-BENCH: it has no {ANNOTATIONS}/ID.pkl beside {IMAGES}/ID.jpg; download "
            f"the hub's data set jiyatai/ALIGN-BENCH and give its folder"
        )
    return names


def read_pair(folder: Path, name: str) -> Pair:
    """Read one pair.

    Raises:
        BadSampleError: It cannot be used; a clause says why.
    """
    try:
        image = upright_image((folder / IMAGES / f"{name}.jpg").read_bytes()).convert("RGB")
    except (OSError, ValueError) as fault:
        raise BadSampleError(f"its image cannot be read ({fault})") from fault
    try:
        found = _Arrays(io.BytesIO((folder / ANNOTATIONS / f"{name}.pkl").read_bytes())).load()
    except Exception as fault:  # a damaged pickle raises anything
        raise BadSampleError(f"its pickle cannot be read ({fault})") from fault
    try:
        caption, annotation = clean_caption(found["caption"]), found["annotation"]
        phrases = {str(phrase): [_region(one, image) for one in regions] for phrase, regions in annotation.items()}
    except (KeyError, TypeError, AttributeError, ValueError) as fault:
        raise BadSampleError(f"its annotation is of another form ({fault})") from fault
    if not caption:
        raise BadSampleError(EMPTY)
    return Pair(name, image, caption, phrases)


def _region(found: Mapping[str, Any], image: Image.Image) -> Region:
    left, top, right, bottom = (float(edge) for edge in found["bbox_mask"])
    if not np.isfinite((left, top, right, bottom)).all():
        raise ValueError("a box that is no number")
    pixels = np.asarray(found["pixel_mask"])
    if pixels.shape != (image.height, image.width) or pixels.dtype.kind not in "bui":
        raise ValueError(
            f"expected a mask of {image.height} x {image.width} truth values, got {pixels.shape} of {pixels.dtype}"
        )
    return Region((left, top, right, bottom), pixels.astype(bool))


def global_scores(attention: Map, pair: Pair) -> dict[str, float]:
    """Return the share of the text [CLS]'s attention in the union of all regions, by form; empty where there is none.

    Args:
        attention: (g, g) of the text [CLS].
        pair: Boxes of more than `WHOLE_IMAGE` are left out.
    """
    regions = [one for of in pair.phrases.values() for one in of if one.share <= WHOLE_IMAGE]
    return _inside(attention, regions)


def local_scores(tokens: NDArray[np.float64], pieces: Sequence[tuple[str, int]], pair: Pair) -> dict[str, float]:
    """Return the share of each phrase's attention in its own regions, by form, averaged over the phrases.

    Args:
        tokens: (T, g, g) attention of the caption's tokens.
        pieces: (T) text of each token and the word it belongs to, -1 of none.
        pair: Phrases of which no word or no region is found are left out; empty where that leaves none.
    """
    scores = [
        _inside(tokens[rows].sum(axis=0), regions)
        for phrase, regions in pair.phrases.items()
        if (rows := phrase_tokens(phrase, pieces)) and regions
    ]
    return {form: sum(one[form] for one in scores) / len(scores) for form in FORMS} if scores else {}


def phrase_tokens(phrase: str, pieces: Sequence[tuple[str, int]]) -> list[int]:
    """Return the tokens of a phrase's words in a caption; full stops and commas are passed over.

    The words are looked for side by side first, then each by itself; of several places the first counts.

    Args:
        phrase: Words of the caption, in lower case.
        pieces: Text of every token of the caption and its word, -1 of none.
    """
    words: dict[int, str] = {}
    for text, word in pieces:
        if word >= 0:
            words[word] = words.get(word, "") + text
    said = {word: _plain(text) for word, text in words.items()}
    wanted = [plain for part in phrase.split() if (plain := _plain(part))]
    numbers = list(said)
    runs = (numbers[at : at + len(wanted)] for at in range(len(numbers) - len(wanted) + 1))
    chosen = next((run for run in runs if wanted and [said[word] for word in run] == wanted), None)
    if chosen is None:
        chosen = [next(iter(n for n in numbers if said[n] == one), -1) for one in wanted]
    return [at for at, (text, word) in enumerate(pieces) if word >= 0 and word in chosen and _plain(text)]


def _plain(text: str) -> str:
    """Return text as words are compared: in lower case, without full stops, commas and space."""
    return re.sub(rf"[{_PASSED_OVER}\s]", "", text.lower())


def _inside(attention: Map, regions: Sequence[Region]) -> dict[str, float]:
    """Return the attention inside the union of regions over all attention, by form."""
    if not regions:
        return {}
    total = float(attention.sum())
    found = {}
    for form in FORMS:
        union = np.any([one.drawn(form) for one in regions], axis=0)
        found[form] = float((attention * resized(union, attention.shape[0])).sum()) / total
    return found


def resized(mask: NDArray[np.bool_], grid: int) -> Map:
    """Return a mask (height, width) as (grid, grid) shares in [0, 1], by bicubic interpolation."""
    small = Image.fromarray(mask.astype(np.float32)).resize((grid, grid), Image.Resampling.BICUBIC)
    return np.asarray(small, np.float64).clip(0.0, 1.0)
