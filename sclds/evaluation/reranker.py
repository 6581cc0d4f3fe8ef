"""The first candidates of every query, scored by the matching head: ranks share the pairs by images.

The pairs of a batch of images are scored in blocks whose bounds follow from the samples alone, so that a score is the
same bit for bit whatever the number of processes, and a finished block can be kept for an evaluation that is killed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sclds.batch import Batch, Recipe, SampleViews
from sclds.batch.matches import FRAME_CLS, TEXT_CLS, empty_views, pack_matches, text_alone
from sclds.batch.ragged import Ints
from sclds.config import Config
from sclds.evaluation.parts import Parts
from sclds.evaluation.ranking import Shortlist, first_candidates
from sclds.losses.communicator import Communicator
from sclds.machine.implementations import compute_dtype
from sclds.model.fusion import fuse
from sclds.model.scl import SCLModel

if TYPE_CHECKING:
    from sclds.evaluation.gallery import Gallery

BATCHES_OF_A_BLOCK = 64
"""Batches of pairs after which their scores are kept."""


@dataclass(frozen=True)
class Piece:
    """A batch of samples that one rank has encoded."""

    name: str
    first: int
    """Number of its first sample."""
    count: int


@dataclass(frozen=True)
class Block:
    """Pairs that are scored by one rank, a batch after the other."""

    name: str
    places: Tensor
    """(n,) int64 of the pairs among all."""


class Reranker:
    """Scores the first candidates of every query with the matching head.

    Texts are short and are encoded again for the pairs that need them.

    Args:
        model: The model, or the engine around it.
        config: The run.
        recipe: Of its batches.
        device: Where the model lies.
        communicator: All processes; each scores the pairs with images and videos of its own.
        parts: Where finished blocks are kept, and taken from.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        recipe: Recipe,
        device: torch.device,
        communicator: Communicator,
        parts: Parts | None,
    ):
        module: Any = getattr(model, "module", model)
        self._model: SCLModel = module
        self._config, self._recipe, self._device, self._communicator = config, recipe, device, communicator
        self._parts = parts

    def __call__(self, gallery: "Gallery", progress: Callable[[int, int], None]) -> Shortlist:
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

    def _scores(self, gallery: "Gallery", pairs: Tensor, count: int, progress: Callable[[int, int], None]) -> Tensor:
        """Return the score of every pair, text · count + image, from the ranks that have the images."""
        found = torch.zeros(len(pairs), dtype=torch.float32)
        blocks = self._blocks(gallery, pairs % count)
        own = sum(len(block.places) for block in blocks)
        blocks = [block for block in blocks if not self._taken_over(block, pairs, found)]
        size, left = self._config.evaluation.batch_size, sum(len(block.places) for block in blocks)
        batches = [(block, start) for block in blocks for start in range(0, len(block.places), size)]
        most, most_left, forwards = self._communicator.gather_counts([own, left, len(batches)]).max(axis=0).tolist()
        progress(most - most_left, most)
        for number in range(forwards):
            block, start = batches[number] if number < len(batches) else (None, 0)
            chosen = block.places[start : start + size] if block else torch.zeros(0, dtype=torch.int64)
            scored = self._score(gallery, pairs[chosen], count)
            found[chosen] = scored[: len(chosen)]
            if self._parts and block and start + size >= len(block.places):
                self._parts.keep(block.name, {"pairs": pairs[block.places], "scores": found[block.places]}, {})
            progress(most - most_left + most_left * (number + 1) // forwards, most)
        return self._communicator.all_reduce_sum(found.to(self._device)).cpu()

    def _blocks(self, gallery: "Gallery", image: Tensor) -> list[Block]:
        """Return the pairs of this rank's images in stretches, the images of a stretch side by side."""
        order = image.argsort(stable=True)  # few images a batch
        size, ordered = BATCHES_OF_A_BLOCK * self._config.evaluation.batch_size, image[order]
        blocks = []
        for piece in gallery.own:
            first, end = torch.searchsorted(ordered, torch.tensor([piece.first, piece.first + piece.count])).tolist()
            for number, start in enumerate(range(first, end, size)):
                places = order[start : min(start + size, end)]
                blocks.append(Block(f"matched-{piece.name}-{number}", places))
        return blocks

    def _taken_over(self, block: Block, pairs: Tensor, found: Tensor) -> bool:
        """Fill in the scores of a block that were kept, and return whether they were."""
        kept = self._parts.take(block.name) if self._parts else None
        if kept is None or not torch.equal(kept[0]["pairs"], pairs[block.places]):
            return False
        found[block.places] = kept[0]["scores"]
        return True

    def _score(self, gallery: "Gallery", pairs: Tensor, count: int) -> Tensor:
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

    def _pack(self, gallery: "Gallery", texts: list[int], media: list[int], pairs: Ints) -> Batch:
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
