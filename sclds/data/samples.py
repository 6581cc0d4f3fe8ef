"""One sample from its shard to its views: caption, tokens, masks, and what is to be decoded.

Every draw is keyed by (seed, purpose, occasion, sample id), so a sample is the same whoever reads it and whenever.
"""

from dataclasses import dataclass, replace

import numpy as np

from sclds.batch import SampleViews
from sclds.batch.duplicates import fingerprint
from sclds.config import Config
from sclds.data.captions import without_phrases
from sclds.data.keys import generator, seed_of
from sclds.data.masks import Ids, mlm_mask, mltc_vision_replace, scl_text_mask, scl_vision_keep
from sclds.data.media.augment import NOTHING, draw_augmentation
from sclds.data.media.encoded import Encoded
from sclds.data.media.geometry import WHOLE, training_window
from sclds.data.media.inspection import Inspections
from sclds.data.media.videos import choose_frames
from sclds.data.storage.shards import MEDIA, SampleIndex, ShardReader
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
    second: Encoded | None = None
    """Its second image, where a downstream task shows two."""


@dataclass(frozen=True)
class Shown:
    """A sample's name, and its size as the model sees it."""

    sample_id: str
    kind: str
    frames: int
    grid: int
    """Patches per side of a frame."""


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
        self._inspect = Inspections(config.data.max_pixels)
        self._phrase_dropout = {dataset.name: dataset.phrase_dropout for dataset in config.data.train}

    def token_ids(self, text: str) -> Ids:
        """Return the (n,) int64 ids of a text, cut as all texts are."""
        return np.array(self._tokenizer.encode(text, self._config.data.max_text_tokens)[0], np.int64)

    def close(self) -> None:
        """Close the shards."""
        self._reader.close()

    def __call__(self, sample: int, occasion: Occasion) -> Loaded:
        """Read a sample.

        Args:
            sample: Its number in the index.
            occasion: Keys its draws; `HELDOUT` takes the first caption, the whole image and the middle frames.

        Raises:
            BadSampleError: Its caption or its image cannot be used.
        """
        views, encoded = self.views(sample, occasion), self.encoded(sample, occasion)
        if self._config.losses.duplicates != "negatives":
            views = replace(views, image_id=fingerprint(encoded.content))
        return Loaded(views, encoded)

    def encoded(self, sample: int, occasion: Occasion, role: int = MEDIA) -> Encoded:
        """Read a sample's image or video and draw what is seen of it; arguments and errors as of a call.

        `role` is that of the member; two images of a sample share their draws.
        """
        shard, row = self._index.locate(sample)
        sample_id = shard.sample_id(row)
        content = self._reader.media(shard, row, role)
        data, training = self._config.data, occasion != HELDOUT
        vouched_for = shard.checksum(row, role) is not None
        info = self._inspect(shard.kind, content, (sample, role) if vouched_for else None)
        window, augmentation = WHOLE, NOTHING
        if training:
            window = training_window(data, info.width, info.height, self._draw("window", occasion, sample_id))
            if data.randaugment_operations:
                augmentation = draw_augmentation(data, self._draw("randaugment", occasion, sample_id))
        frames = np.zeros(1, np.int32)
        if shard.kind == "video":
            rng = self._draw("frames", occasion, sample_id) if training else None
            frames = choose_frames(info.times, data.frames, rng)
        return Encoded(shard.kind, content, info, frames, window, augmentation)

    def captions(self, sample: int) -> list[str]:
        """Return all captions of a sample that can be used, at least one; errors as of a call."""
        return self._reader.captions(*self._index.locate(sample))

    def views(self, sample: int, occasion: Occasion) -> SampleViews:
        """Encode a sample's caption and draw its masks; arguments and errors as of a call."""
        shard, row = self._index.locate(sample)
        captions = self._reader.captions(shard, row)
        chosen = 0
        if occasion != HELDOUT and len(captions) > 1:
            chosen = int(self._draw("caption", occasion, shard.sample_id(row)).integers(len(captions)))
        caption, share = captions[chosen], self._phrase_dropout.get(shard.dataset, 0.0)
        if occasion != HELDOUT and share:
            caption = without_phrases(caption, share, self._draw("phrases", occasion, shard.sample_id(row)))
        shown = self.shown(sample)
        return self._masked(shown.sample_id, caption, shown.kind, shown.frames, shown.grid, occasion)

    def shown(self, sample: int) -> Shown:
        """Return what of a sample is known without reading it."""
        shard, row = self._index.locate(sample)
        data, still = self._config.data, shard.kind == "image"
        grid = (data.image_size if still else data.video_size) // self._config.model.vision.patch_size
        return Shown(shard.sample_id(row), shard.kind, 1 if still else data.frames, grid)

    def _draw(self, purpose: str, occasion: Occasion, sample_id: str) -> np.random.Generator:
        return generator(self._config.seed, purpose, *occasion, sample_id)

    def _masked(
        self, sample_id: str, caption: str, kind: str, frames: int, grid: int, occasion: Occasion
    ) -> SampleViews:
        """Draw the masks of a sample."""
        masking, tokenizer = self._config.masking, self._tokenizer
        encoded, words = tokenizer.encode(caption, self._config.data.max_text_tokens)
        ids = np.array(encoded, np.int64)
        t2, scl_positions = scl_text_mask(
            ids, tokenizer, masking.scl_text_ratio, self._draw("scl_text", occasion, sample_id)
        )
        if self._config.losses.mlm_view == "t1":
            draw = self._draw("mlm", occasion, sample_id)
            t1, mlm_positions, mlm_labels = mlm_mask(ids, words, tokenizer, masking.mlm_ratio, draw)
        else:
            t1, mlm_positions, mlm_labels = ids, scl_positions, ids[scl_positions]
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
            dropout_key=seed_of(self._config.seed, "dropout", *occasion, sample_id),
        )
