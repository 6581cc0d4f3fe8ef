"""Retrieval as it is published: all captions of a sample, and the matching head over the first candidates.

Ranks share the work: each decodes and encodes its own batches, keeps what fusion needs of their images and videos, and
scores the pairs in which these stand (`sclds.evaluation.reranker`). Nothing depends on the number of processes: which
pairs are scored follows from features that all ranks have, what is encoded at once from the samples alone.
"""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np
from torch import Tensor

from sclds.batch import Batch, SampleViews, recipe_of
from sclds.batch.matches import empty_views, pack_matches, text_alone
from sclds.batch.placed import HOST
from sclds.batch.ragged import Ints
from sclds.config import DatasetConfig
from sclds.data.loader import Assembler, HeldoutChunk, HeldoutReader
from sclds.data.media.decode import Decoder
from sclds.data.quarantine import Quarantine
from sclds.data.samples import Loaded, Occasion, SampleMaker
from sclds.data.storage.shards import cache_of, open_index
from sclds.evaluation.heldout import Encoded, HeldoutPass
from sclds.evaluation.reranker import Piece, Reranker
from sclds.losses.communicator import gather_records, gather_rows
from sclds.machine.implementations import compute_dtype
from sclds.objectives.table import TEXT_PROJECTION, VISION_PROJECTION


@dataclass
class Gallery(Encoded):
    """A held-out set with all captions of its samples."""

    texts: list[Ints] = field(default_factory=list)
    """Token ids of every caption."""
    frames: list[int] = field(default_factory=list)
    """Of every sample."""
    grid: int = 0
    """Patches per side of a frame."""
    rows: dict[int, Tensor] = field(default_factory=dict)
    """Of this rank's own samples, by number: (tokens, C) encoded, as fusion reads them."""
    own: list[Piece] = field(default_factory=list)
    """The batches of this rank."""


@dataclass(frozen=True)
class Encoding:
    """What was found of one batch, on the CPU: a part that is kept."""

    tensors: dict[str, Tensor]
    """`text` (t, P) and `vision` (n, P) projections; with `evaluation.rerank` also `tokens` (Nv, C), as fusion reads
    them."""
    record: dict[str, Any]
    """`ids`, `captions` and `texts` (token ids) by sample, `frames`; `order` and `ends` of the samples among the
    tokens."""

    def rows(self) -> dict[int, Tensor]:
        """Return the tokens of every sample by its number in the batch."""
        if "tokens" not in self.tensors:
            return {}
        tokens, ends = self.tensors["tokens"], self.record["ends"]
        return {n: tokens[ends[place] : ends[place + 1]] for place, n in enumerate(self.record["order"])}


@dataclass(frozen=True)
class CaptionedViews(SampleViews):
    """A sample with all its captions."""

    captions: tuple[str, ...] = ()
    texts: tuple[Ints, ...] = ()
    """Their token ids."""


class CaptionsMaker(SampleMaker):
    """Reads samples with all their captions, unmasked."""

    def __call__(self, sample: int, occasion: Occasion) -> Loaded:
        """Read a sample, see `SampleMaker`."""
        captions = tuple(self.captions(sample))
        texts = tuple(self.token_ids(caption) for caption in captions)
        shown = self.shown(sample)
        views = CaptionedViews(
            **empty_views(shown.sample_id, captions[0], shown.kind, shown.frames, shown.grid, texts[0], 0),
            captions=captions,
            texts=texts,
        )
        return Loaded(views, self.encoded(sample, occasion))


class GalleryAssembler(Assembler):
    """Packs the samples of a batch, all their captions beside them, in no pairs."""

    def _with_partners(self, views: list[SampleViews], occasion: Occasion, first_group: int) -> list[SampleViews]:
        return views

    def _pack(self, views: list[SampleViews], patches: Tensor) -> "GalleryBatch":
        samples = [view for view in views if isinstance(view, CaptionedViews)]
        texts = [text_alone(ids) for view in samples for ids in view.texts]
        packed = pack_matches(texts, views, np.zeros((0, 2), np.int64), patches, self._recipe)
        captions = tuple(view.captions for view in samples)
        return GalleryBatch(**vars(packed), texts=tuple(view.texts for view in samples), all_captions=captions)


@dataclass(frozen=True)
class GalleryBatch(Batch):
    """Samples and all their captions."""

    texts: tuple[tuple[Ints, ...], ...] = field(default=(), metadata=HOST)
    """Token ids by sample and caption."""
    all_captions: tuple[tuple[str, ...], ...] = field(default=(), metadata=HOST)


class GalleryReader(HeldoutReader):
    """Reads batches with all captions, see `HeldoutReader`."""

    def _assembler(self, dataset: DatasetConfig) -> Assembler:
        index = open_index([dataset], cache_of(self._config.data))
        maker = CaptionsMaker(self._config, self._tokenizer, index)
        decoder = Decoder(self._config, self._size, self._device_id)
        return GalleryAssembler(self._config, self._tokenizer, index, maker, decoder, self._quarantine)


class GalleryPass(HeldoutPass):
    """Encodes the held-out sets with all captions, and scores the first candidates with the matching head.

    Arguments are those of `HeldoutPass`.
    """

    def _new_reader(self, quarantine: Quarantine | None) -> HeldoutReader:
        self._recipe, self._quarantine = recipe_of(self._config, self._tokenizer.pad_id), quarantine or Quarantine()
        return GalleryReader(self._config, self._tokenizer, self._config.evaluation.batch_size, self._quarantine)

    def _encode(self, dataset: DatasetConfig) -> Encoded:
        gallery = super()._encode(dataset)
        if self._config.evaluation.rerank and gallery.sample_ids:
            assert isinstance(gallery, Gallery)
            self._takes_over = False
            reranker = Reranker(self._model, self._config, self._recipe, self._device, self._communicator, self._parts)
            gallery.shortlist = reranker(
                gallery, lambda done, total: self._tell(f"Matching the pairs of {dataset.name}", done, total)
            )
            gallery.rows.clear()
        return gallery

    def _empty(self, dataset: DatasetConfig) -> Encoded:
        data = self._config.data
        size = data.image_size if dataset.kind == "image" else data.video_size
        return Gallery(dataset.kind, grid=size // self._config.model.vision.patch_size)

    def _tell(self, what: str, done: int, total: int) -> None:
        """Say how far it is, but not while batches are taken over: the time left would follow from their speed."""
        if not self._takes_over:
            super()._tell(what, done, total)

    def _read(self, chunks: list[HeldoutChunk], number: int) -> tuple[Any, bool]:
        """Return what was kept of a batch, or else the batch, see `HeldoutPass`."""
        chunk = chunks[number]
        self._name = f"{quote(chunk.dataset.name, safe='')}-{chunk.start}-{chunk.end}"
        kept = self._parts.take(f"encoded-{self._name}") if self._parts else None
        self._takes_over = kept is not None
        if kept is None:
            return super()._read(chunks, number)
        self._agree(None, 1)
        known = Encoding(*kept)
        self._quarantine.count(chunk.end - chunk.start, chunk.end - chunk.start - len(known.record["ids"]))
        return known, False

    def _forward(self, batch: Any) -> Any:
        """Return the projections of all texts and samples, and what fusion reads of every sample, on the CPU."""
        if isinstance(batch, Encoding):
            return batch
        assert isinstance(batch, GalleryBatch)
        placed = batch.to(self._device, compute_dtype(self._config))
        outputs = self._model(placed)
        tensors = {
            "text": outputs[TEXT_PROJECTION.name].float().cpu(),
            "vision": outputs[VISION_PROJECTION.name].float().cpu(),
        }
        if self._config.evaluation.rerank:
            tensors["tokens"] = outputs["vision_views"].cpu()
        record: dict[str, Any] = {"ids": batch.samples.ids, "captions": batch.all_captions}
        record["texts"] = [[ids.tolist() for ids in of_sample] for of_sample in batch.texts]
        record |= {"frames": batch.samples.frames, "order": batch.samples.order}
        return Encoding(tensors, record | {"ends": placed.lengths.vision_cu_seqlens.tolist()})

    def _take_in(self, batch: Any, found: Any, encoded: Encoded) -> None:
        """Exchange features, captions and token ids of every rank's batch (None: nothing that counts), in order."""
        assert isinstance(encoded, Gallery)
        assert isinstance(found, Encoding)
        text, vision = (found.tensors[name].to(self._device) for name in ("text", "vision"))
        record: dict[str, Any] = {"ids": [], "captions": [], "texts": [], "frames": []}
        if batch is None:
            text, vision = text[:0], vision[:0]
        else:
            record = {name: found.record[name] for name in record}
            if self._parts and batch is not found:
                self._parts.keep(f"encoded-{self._name}", found.tensors, found.record)
        lengths = self._communicator.gather_counts([len(text), len(vision)])
        all_text, all_vision = gather_rows([text, vision], list(lengths.T), self._communicator)
        for rank, shown in enumerate(gather_records(record, self._communicator, self._device)):
            first = len(encoded.sample_ids)
            if rank == self._communicator.rank and batch is not None:
                encoded.rows |= {first + sample: own for sample, own in found.rows().items()}
                encoded.own.append(Piece(self._name, first, len(shown["ids"])))
            encoded.sample_ids += shown["ids"]
            encoded.frames += shown["frames"]
            for sample, (captions, texts) in enumerate(zip(shown["captions"], shown["texts"], strict=True)):
                encoded.captions += captions
                encoded.texts += [np.array(ids, np.int64) for ids in texts]
                encoded.owners += [first + sample] * len(captions)
        encoded.text.append(all_text.cpu())
        encoded.vision.append(all_vision.cpu())
