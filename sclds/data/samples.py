"""One sample from its shard to its views: caption, tokens, masks, and what is to be decoded.

Every draw is keyed by (seed, purpose, occasion, sample id), so a sample is the same whoever reads it and whenever.
"""

from dataclasses import dataclass

import numpy as np

from sclds.config import Config
from sclds.data.decode import Encoded
from sclds.data.geometry import WHOLE, training_window
from sclds.data.keys import generator
from sclds.data.masks import mlm_mask, mltc_vision_replace, scl_text_mask, scl_vision_keep
from sclds.data.media import choose_frames, inspect
from sclds.data.packing import SampleViews
from sclds.data.shards import SampleIndex, ShardReader
from sclds.data.tokenizer import Tokenizer

HELDOUT: tuple[str, ...] = ("heldout",)
"""The occasion of held-out samples: their masks are the same at every measurement."""
Occasion = tuple[str | int, ...]
"""When a sample is seen: (epoch, repeat) in training, or `HELDOUT`."""


@dataclass(frozen=True)
class Loaded:
    """A sample that has been read but not decoded; its ITM partner is not drawn yet."""

    views: SampleViews
    encoded: Encoded


class SampleMaker:
    """Reads samples and draws their views. For one thread.

    Args:
        config: The run.
        tokenizer: Encodes captions.
        index: The samples.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, index: SampleIndex):
        self._config, self._tokenizer, self._index = config, tokenizer, index
        self._reader = ShardReader()

    def close(self) -> None:
        """Close the shards."""
        self._reader.close()

    def __call__(self, sample: int, occasion: Occasion) -> Loaded:
        """Read a sample.

        Args:
            sample: Its number in the index.
            occasion: Keys its draws; `HELDOUT` takes the first caption, the whole picture and the middle frames.

        Raises:
            BadSampleError: Its caption or its picture cannot be used.
        """
        shard, row = self._index.locate(sample)
        sample_id = shard.sample_id(row)
        training = occasion != HELDOUT
        captions = self._reader.captions(shard, row)
        caption = captions[0]
        if training and len(captions) > 1:
            caption = captions[self._draw("caption", occasion, sample_id).integers(len(captions))]
        content = self._reader.media(shard, row)
        info = inspect(shard.kind, content)
        data = self._config.data
        size = data.image_size if shard.kind == "image" else data.video_size
        window = WHOLE
        if training:
            window = training_window(data, size, info.width, info.height, self._draw("window", occasion, sample_id))
        frames = np.zeros(1, np.int32)
        if shard.kind == "video":
            rng = self._draw("frames", occasion, sample_id) if training else None
            frames = choose_frames(info.frames, data.frames, rng)
        grid = size // self._config.model.vision.patch_size
        views = self._views(sample_id, caption, shard.kind, len(frames), grid, occasion)
        return Loaded(views, Encoded(shard.kind, content, info, frames, window))

    def _draw(self, purpose: str, occasion: Occasion, sample_id: str) -> np.random.Generator:
        return generator(self._config.seed, purpose, *occasion, sample_id)

    def _views(
        self, sample_id: str, caption: str, kind: str, frames: int, grid: int, occasion: Occasion
    ) -> SampleViews:
        """Draw the masks of a sample."""
        masking, tokenizer = self._config.masking, self._tokenizer
        encoded, words = tokenizer.encode(caption, self._config.data.max_text_tokens)
        ids = np.array(encoded, np.int64)
        t1, mlm_positions, mlm_labels = mlm_mask(
            ids, np.array(words, np.int64), tokenizer, masking.mlm_ratio, self._draw("mlm", occasion, sample_id)
        )
        t2, scl_positions = scl_text_mask(
            ids, tokenizer, masking.scl_text_ratio, self._draw("scl_text", occasion, sample_id)
        )
        rng = self._draw("scl_vision", occasion, sample_id)
        replaced = np.empty(0, np.int64)
        if self._config.losses.mltc_image > 0:
            draw = self._draw("mltc_vision", occasion, sample_id)
            replaced = mltc_vision_replace(grid**2, masking.mltc_vision_ratio, draw)
        return SampleViews(
            sample_id=sample_id,
            caption=caption,
            kind=kind,
            frames=frames,
            grid=grid,
            text=ids,
            text_mlm=t1,
            mlm_positions=mlm_positions,
            mlm_labels=mlm_labels,
            text_scl=t2,
            scl_positions=scl_positions,
            keep=scl_vision_keep(grid**2, masking.scl_vision_ratio, rng),
            replaced=replaced,
        )
