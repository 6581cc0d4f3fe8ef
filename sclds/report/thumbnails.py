"""Small images of samples out of their shards, as data: URIs for the report."""

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from sclds.config import Config
from sclds.config.errors import DataError
from sclds.data.media.images import upright_image
from sclds.data.media.inspection import inspect
from sclds.data.media.videos import read_frames
from sclds.data.storage.shards import BadSampleError, SampleIndex, Shard, ShardReader, cache_of, open_index
from sclds.report.page import webp_uri

SIDE = 112
"""Pixels; shown at half of that on a dense screen."""
CLIP_FRAMES = 4
CLIP_MILLISECONDS = 350
"""How long a frame of a video stays."""


def thumbnails(config: Config, sample_ids: Iterable[str]) -> dict[str, str]:
    """Return a data: URI for each held-out sample that can be found and decoded; clips move."""
    wanted = set(sample_ids)
    try:
        index = open_index(config.data.heldout, cache_of(config.data))
    except DataError:
        return {}
    reader, found = ShardReader(), {}
    for sample_id, (shard, row) in _places(index, wanted).items():
        try:
            found[sample_id] = _data_uri(shard.kind, reader.media(shard, row))
        except (BadSampleError, OSError, ValueError):
            continue  # the page then shows the caption alone
    reader.close()
    return found


def _places(index: SampleIndex, wanted: set[str]) -> dict[str, tuple[Shard, int]]:
    """Return shard and row of the wanted samples."""
    return {
        name: (shard, row)
        for shard in index.shards
        for row in range(len(shard))
        if (name := shard.sample_id(row)) in wanted
    }


def _data_uri(kind: str, content: bytes) -> str:
    """Return an image or a video as (animated) WebP on white."""
    buffer = io.BytesIO()
    if kind == "image":
        _thumbnail(upright_image(content)).save(buffer, "WEBP", quality=75)
    else:
        available = inspect("video", content).frames
        numbers = np.linspace(0, available - 1, min(available, CLIP_FRAMES)).astype(int).tolist()
        frames = [_thumbnail(Image.fromarray(frame)) for frame in read_frames(content, numbers)]
        frames[0].save(
            buffer,
            "WEBP",
            save_all=True,
            append_images=frames[1:],
            duration=CLIP_MILLISECONDS,
            loop=0,
            quality=65,
        )
    return webp_uri(buffer.getvalue())


def _thumbnail(image: Image.Image) -> Image.Image:
    """Return the image in RGB on white, at most `SIDE` pixels a side."""
    layered = image.convert("RGBA")
    layered.thumbnail((SIDE, SIDE))
    flat = Image.new("RGB", layered.size, "white")
    flat.paste(layered, mask=layered.getchannel("A"))
    return flat
