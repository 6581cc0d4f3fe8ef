"""Hold out whole concepts: nothing held out shares a concept or a near-duplicate image with anything trained on.

Items are joined (union-find) that share a concept, an identity such as an emoji's code points, or an image that looks
the same; a group of joined items goes to one side as a whole. Which groups are held out depends on a hash of their
concept only.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from sclds.data.prepare.item import Item

HASH_BITS = 20
"""Images whose 256-bit difference hashes differ in at most so many bits..."""
THUMBNAIL_DISTANCE = 10.0
"""...and whose 8 x 8 thumbnails differ by less than this on average (of 255) are near-duplicates."""
_MAX_GROUP = 6
"""An image is held out only from groups of at most so many images: larger ones teach more than they test."""
_KNOWN_IN_GROUPS = 4
"""A held-out caption has a title word that so many groups mention, so that what it asks for can be learnt."""
_TELLING_WORDS = 3
"""A held-out caption has so many words of three letters or more: "info" asks for nothing in particular."""


@dataclass(frozen=True)
class Fingerprint:
    """What near-duplicates are found by.

    Attributes:
        bits: Difference hash, (4,) uint64.
        thumbnail: 8 x 8 RGB thumbnail, (192,) float32, 0 to 255.
    """

    bits: npt.NDArray[np.uint64]
    thumbnail: npt.NDArray[np.float32]


def fingerprint(image: Image.Image) -> Fingerprint:
    """Return the 16 x 16 difference hash (is a pixel brighter than its left neighbour) and the thumbnail."""
    gray = np.asarray(image.convert("L").resize((17, 16), Image.Resampling.BOX), dtype=np.int16)
    bits = np.packbits(gray[:, 1:] > gray[:, :-1]).view(np.uint64)
    small = np.asarray(image.convert("RGB").resize((8, 8), Image.Resampling.BOX), dtype=np.float32)
    return Fingerprint(bits, small.reshape(-1))


def near_duplicates(prints: Sequence[Fingerprint]) -> list[tuple[int, int]]:
    """Return the pairs (i, j), i < j, of images that look the same."""
    bits = np.stack([p.bits for p in prints])
    thumbnails = np.stack([p.thumbnail for p in prints])
    pairs = []
    for i in range(len(prints) - 1):
        distance = np.bitwise_count(bits[i + 1 :] ^ bits[i]).sum(1)
        for j in np.flatnonzero(distance <= HASH_BITS) + i + 1:
            if np.abs(thumbnails[i] - thumbnails[j]).mean() < THUMBNAIL_DISTANCE:
                pairs.append((i, int(j)))
    return pairs


class _Union:
    def __init__(self, count: int):
        self._parent = list(range(count))

    def root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        low, high = sorted((self.root(i), self.root(j)))
        self._parent[high] = low


def groups_of(items: Sequence[Item], pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return the indices of items, joined by concept, identity and the given pairs, in order of the first member."""
    union = _Union(len(items))
    first: dict[tuple[str, str], int] = {}
    for i, item in enumerate(items):
        union.join(i, first.setdefault(("concept", item.concept), i))
        if item.same_as:
            union.join(i, first.setdefault(("same", item.same_as), i))
    for i, j in pairs:
        union.join(i, j)
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(len(items)):
        groups[union.root(i)].append(i)
    return list(groups.values())


@dataclass(frozen=True)
class Split:
    """Indices of items a side; members of a held-out group other than its representative are in none."""

    images_train: list[int]
    images_heldout: list[int]
    videos_train: list[int]
    videos_heldout: list[int]


def split_by_concept(items: Sequence[Item], groups: Sequence[Sequence[int]], images: int, videos: int) -> Split:
    """Hold out one image or video of each chosen group, of distinct captions.

    Video groups are few, so those are chosen first, small ones before large ones; the images of a group whose video is
    held out are held out or left out too.

    Args:
        items: Everything; keys that start with "clip-" are videos.
        groups: What must not be parted.
        images: Images to hold out.
        videos: Videos to hold out.
    """
    is_video = [item.key.startswith("clip-") for item in items]
    order = sorted(range(len(groups)), key=lambda g: key_of(items[groups[g][0]].concept))
    with_videos = [g for g in order if any(is_video[i] for i in groups[g])]
    with_videos.sort(key=lambda g: len(groups[g]) > _MAX_GROUP)
    mentions = _mentions(items, groups)
    held: set[int] = set()
    held_videos: list[int] = []
    held_images: list[int] = []
    captions: set[str] = set()

    def hold(g: int, video: bool) -> int | None:
        fit = [i for i in groups[g] if is_video[i] == video and items[i].holdable and items[i].caption not in captions]
        fit = [i for i in fit if len(words(items[i].caption)) >= _TELLING_WORDS]
        known = [i for i in fit if any(mentions[w] >= _KNOWN_IN_GROUPS for w in words(items[i].title))]
        best = min(known, key=lambda i: (items[i].variant, key_of(items[i].key)), default=None)
        if best is not None:
            captions.add(items[best].caption)
            held.add(g)
        return best

    for g in with_videos:
        best = hold(g, video=True) if len(held_videos) < videos else None
        if best is not None:
            held_videos.append(best)
    captions.clear()
    for g in sorted(order, key=lambda g: g not in held):
        small = g in held or (g not in with_videos and sum(not items[i].variant for i in groups[g]) <= _MAX_GROUP)
        best = hold(g, video=False) if small and len(held_images) < images else None
        if best is not None:
            held_images.append(best)
    train = [i for g in order if g not in held for i in groups[g]]
    return Split(
        [i for i in train if not is_video[i]],
        held_images,
        [i for i in train if is_video[i]],
        held_videos,
    )


def key_of(text: str) -> str:
    """Return a hash that orders texts arbitrarily but always alike."""
    return hashlib.sha256(text.encode()).hexdigest()


def words(text: str) -> set[str]:
    """Return the words of three or more letters of a caption."""
    return set(re.findall(r"[^\W\d_]{3,}", text))


def _mentions(items: Sequence[Item], groups: Sequence[Sequence[int]]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for group in groups:
        for word in set().union(*(words(items[i].caption) for i in group)):
            counts[word] += 1
    return counts
