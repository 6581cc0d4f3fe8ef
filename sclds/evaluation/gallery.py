"""Retrieval as it is published: all captions of a sample, and the matching head over the first candidates.

Ranks share the work: each decodes and encodes its own batches, keeps what fusion needs of their images and videos, and
scores the pairs in which these stand. Texts are short and are encoded again for the pairs that need them. Nothing
depends on the number of processes: which pairs are scored follows from features that all ranks have.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sclds.batch import Batch, Recipe, SampleViews, recipe_of
from sclds.batch.matches import FRAME_CLS, TEXT_CLS, empty_views, pack_matches, text_alone
from sclds.batch.placed import HOST
from sclds.batch.ragged import Ints
from sclds.config import Config, DatasetConfig
from sclds.data.loader import Assembler, HeldoutReader
from sclds.data.media.decode import Decoder
from sclds.data.quarantine import Quarantine
from sclds.data.samples import Loaded, Occasion, SampleMaker
from sclds.data.storage.shards import cache_of, open_index
from sclds.evaluation.heldout import Encoded, HeldoutPass
from sclds.evaluation.ranking import Shortlist, first_candidates
from sclds.losses.communicator import Communicator, gather_records, gather_rows
from sclds.machine.implementations import compute_dtype
from sclds.model.fusion import fuse
from sclds.model.scl import SCLModel
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
        self._recipe = recipe_of(self._config, self._tokenizer.pad_id)
        return GalleryReader(self._config, self._tokenizer, self._config.evaluation.batch_size, quarantine)

    def _encode(self, dataset: DatasetConfig) -> Encoded:
        gallery = super()._encode(dataset)
        if self._config.evaluation.rerank and gallery.sample_ids:
            assert isinstance(gallery, Gallery)
            gallery.shortlist = Reranker(self._model, self._config, self._recipe, self._device, self._communicator)(
                gallery, lambda done, total: self._tell(f"Matching the pairs of {dataset.name}", done, total)
            )
            gallery.rows.clear()
        return gallery

    def _empty(self, dataset: DatasetConfig) -> Encoded:
        data = self._config.data
        size = data.image_size if dataset.kind == "image" else data.video_size
        return Gallery(dataset.kind, grid=size // self._config.model.vision.patch_size)

    def _forward(self, batch: Batch) -> Any:
        """Return the projections of all texts and samples, and what fusion reads of every sample, on the CPU."""
        placed = batch.to(self._device, compute_dtype(self._config))
        outputs = self._model(placed)
        rows: dict[int, Tensor] = {}
        if self._config.evaluation.rerank:
            ends = placed.lengths.vision_cu_seqlens.tolist()
            rows = {
                sample: outputs["vision_views"][ends[place] : ends[place + 1]].cpu()
                for place, sample in enumerate(batch.samples.order)
            }
        return outputs[TEXT_PROJECTION.name].float(), outputs[VISION_PROJECTION.name].float(), rows

    def _take_in(self, batch: Batch | None, found: Any, encoded: Encoded) -> None:
        """Exchange features, captions and token ids of every rank's batch (None: nothing that counts), in order."""
        assert isinstance(encoded, Gallery)
        text, vision, rows = found
        record: dict[str, Any] = {"ids": [], "captions": [], "texts": [], "frames": []}
        if isinstance(batch, GalleryBatch):
            texts = [[ids.tolist() for ids in of_sample] for of_sample in batch.texts]
            record = {"ids": batch.samples.ids, "captions": batch.all_captions, "texts": texts}
            record["frames"] = batch.samples.frames
        else:
            text, vision, rows = text[:0], vision[:0], {}
        lengths = self._communicator.gather_counts([len(text), len(vision)])
        all_text, all_vision = gather_rows([text, vision], list(lengths.T), self._communicator)
        for rank, shown in enumerate(gather_records(record, self._communicator, self._device)):
            first = len(encoded.sample_ids)
            if rank == self._communicator.rank:
                encoded.rows |= {first + sample: own for sample, own in rows.items()}
            encoded.sample_ids += shown["ids"]
            encoded.frames += shown["frames"]
            for sample, (captions, texts) in enumerate(zip(shown["captions"], shown["texts"], strict=True)):
                encoded.captions += captions
                encoded.texts += [np.array(ids, np.int64) for ids in texts]
                encoded.owners += [first + sample] * len(captions)
        encoded.text.append(all_text.cpu())
        encoded.vision.append(all_vision.cpu())


class Reranker:
    """Scores the first candidates of every query with the matching head.

    Args:
        model: The model, or the engine around it.
        config: The run.
        recipe: Of its batches.
        device: Where the model lies.
        communicator: All processes; each scores the pairs with images and videos of its own.
    """

    def __init__(
        self, model: nn.Module, config: Config, recipe: Recipe, device: torch.device, communicator: Communicator
    ):
        module: Any = getattr(model, "module", model)
        self._model: SCLModel = module
        self._config, self._recipe, self._device, self._communicator = config, recipe, device, communicator

    def __call__(self, gallery: Gallery, progress: Callable[[int, int], None]) -> Shortlist:
        """Return the first `evaluation.rerank` candidates of every query of a set, and their scores."""
        k = self._config.evaluation.rerank
        text, vision = torch.cat(gallery.text), torch.cat(gallery.vision)
        images, texts = first_candidates(text, vision, k), first_candidates(vision, text, k)
        count = len(vision)
        asked = torch.cat(
            (
                (torch.arange(len(text))[:, None] * count + images).flatten(),
                (texts * count + torch.arange(count)[:, None]).flatten(),
            )
        )
        pairs, place = asked.unique(return_inverse=True)
        scores = self._scores(gallery, pairs, count, progress)[place]
        of_images, of_texts = scores.split((images.numel(), texts.numel()))
        return Shortlist(images, of_images.view(images.shape), texts, of_texts.view(texts.shape))

    def _scores(self, gallery: Gallery, pairs: Tensor, count: int, progress: Callable[[int, int], None]) -> Tensor:
        """Return the score of every pair, text · count + image, from the ranks that have the images."""
        own = torch.tensor(sorted(gallery.rows), dtype=torch.int64)
        places = torch.isin(pairs % count, own).nonzero().squeeze(1)
        places = places[(pairs[places] % count).argsort(stable=True)]  # few images a batch
        size = self._config.evaluation.batch_size
        most = int(self._communicator.gather_counts([len(places)]).max())
        found = torch.zeros(len(pairs), dtype=torch.float32)
        for start in range(0, most, size):
            chosen = places[start : start + size]
            scored = self._score(gallery, pairs[chosen], count)
            found[chosen] = scored[: len(chosen)]
            progress(min(start + size, most), most)
        return self._communicator.all_reduce_sum(found.to(self._device)).cpu()

    def _score(self, gallery: Gallery, pairs: Tensor, count: int) -> Tensor:
        """Return how well pairs match; of none, a rank without work runs one pair all the same, as ZeRO-3 needs."""
        if len(pairs):
            texts, of_text = (pairs // count).unique(return_inverse=True)
            media, of_media = (pairs % count).unique(return_inverse=True)
            rows = [gallery.rows[number] for number in media.tolist()]
        else:
            texts = media = of_text = of_media = torch.zeros(1, dtype=torch.int64)
            rows = [torch.zeros(gallery.frames[0] * (gallery.grid**2 + 1), self._config.model.fusion.width)]
        batch = self._pack(gallery, texts.tolist(), media.tolist(), torch.stack((of_text, of_media), dim=1).numpy())
        shown = torch.cat([rows[place] for place in batch.samples.order])
        dtype = compute_dtype(self._config)
        return match_scores(self._model, batch.to(self._device, dtype), shown.to(self._device, dtype)).cpu()

    def _pack(self, gallery: Gallery, texts: list[int], media: list[int], pairs: Ints) -> Batch:
        said = [text_alone(gallery.texts[number]) for number in texts]
        none = np.zeros(0, np.int64)
        shown = [
            SampleViews(**empty_views("", "", gallery.kind, gallery.frames[number], gallery.grid, none, 0))
            for number in media
        ]
        patches = torch.zeros(0, 3 * self._config.model.vision.patch_size**2)  # encoded already
        return pack_matches(said, shown, pairs, patches, self._recipe)


def match_scores(model: SCLModel, batch: Batch, vision: Tensor) -> Tensor:
    """Return how well each pair of a batch matches: (P,) float32, higher is better.

    Args:
        model: Scores; its submodules are called one by one.
        batch: Of `pack_matches`.
        vision: (Nv, C) its images and videos, encoded.
    """
    text = model.cross_modal_text_transform(model.text_encoder(batch.text))
    typed = model.token_type_embeddings(text, vision)
    layers = model.cross_modal_text_layers, model.cross_modal_image_layers
    fused_text, fused_vision = fuse(*layers, typed, batch, False)
    places = batch.reads.places
    return model.match_score(model.pooled(fused_text, fused_vision, places[TEXT_CLS], places[FRAME_CLS]))
