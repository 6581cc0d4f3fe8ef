"""ALIGN-BENCH run on a model, shared by the ranks as the held-out pass is: the task `align_bench`.

Its pairs are no held-out set of the run: they have regions beside their captions, and come from the benchmark's own
folder (`evaluation.align_bench`). All of them are read, at the end, whatever `evaluation.max_samples` is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sclds.batch import Batch, SampleViews, recipe_of
from sclds.batch.matches import FRAME_CLS, empty_views, pack_matches
from sclds.batch.placed import HOST
from sclds.config import Config, DatasetConfig
from sclds.config.errors import DataError
from sclds.data.loader import HeldoutChunk, HeldoutReader
from sclds.data.media.scaling import PatchLayout
from sclds.data.quarantine import Quarantine
from sclds.data.storage.shards import BadSampleError
from sclds.data.tokenizer import Tokenizer
from sclds.evaluation.align_bench import FORMS, Map, Pair, global_scores, local_scores, pair_names, read_pair
from sclds.evaluation.heldout import Encoded, HeldoutPass
from sclds.evaluation.section import Cell, Section
from sclds.losses.communicator import gather_records
from sclds.machine.implementations import compute_dtype
from sclds.model.fusion import fuse
from sclds.model.scl import SCLModel

ALIGN_BENCH = "align_bench"
"""The task, its key in `results.json`, and the set under which its figures are followed."""
SCORES = ("global", "local")
EVEN = "even_"
"""Before the score of a map that is the same everywhere: the share of the image that the regions take."""
NOTE = (
    "The share of the attention from words to patches in the last fusion layer that lies in the regions which a "
    "caption's phrases name (docs/method.md, ALIGN-BENCH); the small figure and the mark are what an even map has."
)
Scores = dict[str, dict[str, float]]
"""By score, a value a form, and that of an even map; empty where a caption does not have the score."""


@dataclass
class Aligned(Encoded):
    """The pairs of the benchmark, in the order of their names."""

    scores: list[Scores] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """By name of a pair that cannot be used, why."""


@dataclass(frozen=True)
class AlignBatch(Batch):
    """Pairs, each packed as one text beside one image, of whose words all rows are read."""

    shown: tuple[Pair, ...] = field(default=(), metadata=HOST)
    pieces: tuple[tuple[tuple[str, int], ...], ...] = field(default=(), metadata=HOST)
    """Of each pair, the text of every token and the word it belongs to."""


class AlignReader(HeldoutReader):
    """Packs pairs of the benchmark; images become squares of `data.image_size` by Pillow's bicubic filter.

    Arguments are those of `HeldoutReader`; a pair that cannot be used is left out, whatever the quarantine allows.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, size: int, quarantine: Quarantine | None = None):
        super().__init__(config, tokenizer, size, quarantine)
        data, patch = config.data, config.model.vision.patch_size
        self._layout, self._patch = PatchLayout(patch, data.mean, data.std), patch
        self._recipe = recipe_of(config, tokenizer.pad_id)
        self._names: dict[str, list[str]] = {}
        self.left_out: dict[str, str] = {}

    def names(self, dataset: DatasetConfig) -> list[str]:
        """Return the names of the benchmark's pairs, which are listed once."""
        if dataset.shards not in self._names:
            self._names[dataset.shards] = pair_names(Path(dataset.shards))
        return self._names[dataset.shards]

    def __call__(self, chunk: HeldoutChunk) -> Batch | None:
        """Return the batch of a chunk without its unusable pairs; None if none is left."""
        pairs: list[Pair] = []
        for name in self.names(chunk.dataset)[chunk.start : chunk.end]:
            try:
                pairs.append(read_pair(Path(chunk.dataset.shards), name))
            except BadSampleError as fault:
                self.left_out[name] = str(fault)
        return self._packed(pairs) if pairs else None

    def _packed(self, pairs: Sequence[Pair]) -> AlignBatch:
        size = self._config.data.image_size
        grid = size // self._patch
        rows = np.empty((len(pairs), grid**2, 3 * self._patch**2), np.float32)
        views, pieces = [], []
        for pair, own in zip(pairs, rows, strict=True):
            square = pair.image.resize((size, size), Image.Resampling.BICUBIC)
            self._layout.write(np.asarray(square)[None], own)
            ids, words = self._tokenizer.encode(pair.caption, self._config.data.max_text_tokens)
            views.append(SampleViews(**empty_views(pair.name, pair.caption, "image", 1, grid, np.array(ids), 0)))
            pieces.append(tuple(zip(("", *self._tokenizer.pieces(ids[1:-1]), ""), words, strict=True)))
        beside = np.stack((np.arange(len(pairs)),) * 2, axis=1)
        patches = torch.from_numpy(rows).flatten(0, 1)
        packed = pack_matches(views, views, beside, patches, self._recipe, read_words=True)
        return AlignBatch(**vars(packed), shown=tuple(pairs), pieces=tuple(pieces))


class AlignPass(HeldoutPass):
    """Scores the pairs of the benchmark; arguments are those of `HeldoutPass`."""

    def _new_reader(self, quarantine: Quarantine | None) -> HeldoutReader:
        config = self._config
        self._pairs = AlignReader(config, self._tokenizer, config.evaluation.batch_size, quarantine)
        return self._pairs

    def _datasets(self) -> list[DatasetConfig]:
        folder = self._config.evaluation.align_bench
        assert folder is not None
        return [DatasetConfig(name=ALIGN_BENCH, shards=folder)]

    def _empty(self, dataset: DatasetConfig) -> Encoded:
        return Aligned(dataset.kind)

    def _all_chunks(self, dataset: DatasetConfig) -> list[HeldoutChunk]:
        count, size = len(self._pairs.names(dataset)), self._config.evaluation.batch_size
        return [HeldoutChunk(dataset, start, min(start + size, count)) for start in range(0, count, size)]

    def _encode(self, dataset: DatasetConfig) -> Encoded:
        """Score all pairs, and put together what every rank has left out.

        Raises:
            DataError: On every rank, if no pair can be used.
        """
        found = super()._encode(dataset)
        assert isinstance(found, Aligned)
        records = gather_records(self._pairs.left_out, self._communicator, self._device)
        found.left_out = dict(sorted({name: why for one in records for name, why in one.items()}.items()))
        if not found.sample_ids:
            name, reason = next(iter(found.left_out.items()))
            raise DataError(
                f"none of the {len(found.left_out)} pairs of {dataset.shards} can be used: of {name}, {reason}"
            )
        return found

    def _forward(self, batch: Batch) -> Any:
        """Return the scores of every pair."""
        assert isinstance(batch, AlignBatch)
        module: Any = getattr(self._model, "module", self._model)
        weights = text_to_vision(module, batch.to(self._device, compute_dtype(self._config)))
        return [scores_of(*one) for one in zip(weights, batch.pieces, batch.shown, strict=True)]

    def _take_in(self, batch: Batch | None, found: Any, encoded: Encoded) -> None:
        """Exchange what every rank scored (None: nothing that counts), in order."""
        assert isinstance(encoded, Aligned)
        record: dict[str, Any] = {"ids": [], "scores": []}
        if isinstance(batch, AlignBatch):
            record = {"ids": [pair.name for pair in batch.shown], "scores": found}
        for shown in gather_records(record, self._communicator, self._device):
            encoded.sample_ids += shown["ids"]
            encoded.scores += shown["scores"]


def alignment_problems(config: Config) -> list[str]:
    """Return a sentence where the benchmark is to be measured and its folder is none."""
    folder = config.evaluation.align_bench
    if folder is None:
        return []
    try:
        pair_names(Path(folder))
    except DataError as fault:
        return [f"evaluation.align_bench: {fault}"]
    return []


def text_to_vision(model: SCLModel, batch: Batch) -> list[Tensor]:
    """Return what the tokens of every text attend to in its image in the last fusion layer, on the CPU in float32.

    Args:
        model: Its submodules are called one by one.
        batch: Of `pack_matches` with `read_words`, one pair a text.

    Returns:
        For each pair (heads, T, 1 + L), softmax(q kᵀ / √d): from the tokens, [CLS] first, to the image's [CLS], then to
        patches row by row. Every row sums to 1.
    """
    seen: list[tuple[Tensor, Tensor]] = []
    typed = model.token_type_embeddings(*model.encode(batch))
    layers = model.cross_modal_text_layers, model.cross_modal_image_layers
    fuse(*layers, typed, batch, False, lambda queries, keys: seen.append((queries.float(), keys.float())))
    [(q_NHD, k_MHD)] = seen
    text, vision = (batch.lengths.pair_text_cu_seqlens.tolist(), batch.lengths.pair_vision_cu_seqlens.tolist())
    packed: list[Tensor] = []
    for place in range(len(text) - 1):
        q, k = q_NHD[text[place] : text[place + 1]], k_MHD[vision[place] : vision[place + 1]]
        weights = torch.einsum("nhd,mhd->hnm", q, k) * q.shape[-1] ** -0.5
        packed.append(weights.softmax(-1).cpu())
    return [packed[place] for place in batch.reads.places[FRAME_CLS][:, 0].tolist()]  # one frame, so one row a pair


def scores_of(weights: Tensor, pieces: Sequence[tuple[str, int]], pair: Pair) -> Scores:
    """Return the scores of a pair, those of an even map among them.

    Args:
        weights: (heads, T, 1 + L) of its tokens; the largest of the heads counts, and the image's [CLS] does not.
        pieces: Of its T tokens, see `local_scores`.
        pair: Its regions.
    """
    tokens = weights.amax(dim=0)[:, 1:].double().numpy()
    grid = round(tokens.shape[1] ** 0.5)
    maps: Map = tokens.reshape(-1, grid, grid)
    even = np.ones_like(maps)
    of_maps = {"global": global_scores(maps[0], pair), "local": local_scores(maps, pieces, pair)}
    of_even = {"global": global_scores(even[0], pair), "local": local_scores(even, pieces, pair)}
    return {name: own | {f"{EVEN}{form}": of_even[name][form] for form in own} for name, own in of_maps.items()}


def alignment_of(found: Aligned) -> dict[str, Any]:
    """Return the means over captions.

    Returns:
        For `global` and `local` each `box` and `pixel`, what an even map would have there as `even_box` and
        `even_pixel`, and `n`, the captions that have the score; `pairs` that were read; `left_out` by reason, with the
        number of pairs and the first of them.
    """
    left_out: dict[str, dict[str, Any]] = {}
    for name, reason in found.left_out.items():
        left_out.setdefault(reason, {"pairs": 0, "first": name})["pairs"] += 1
    forms = (*FORMS, *(f"{EVEN}{form}" for form in FORMS))
    means: dict[str, Any] = {}
    for score in SCORES:
        known = [one[score] for one in found.scores if one[score]]
        means[score] = {form: _mean(known, form) for form in forms} | {"n": len(known)}
    return means | {"pairs": len(found.scores), "left_out": left_out}


def _mean(scores: Sequence[Mapping[str, float]], form: str) -> float | None:
    """Return the mean over captions; None of none."""
    return float(np.mean([one[form] for one in scores])) if scores else None


def evaluate_alignment(sets: Mapping[str, Encoded]) -> dict[str, Any]:
    """Return `align_bench`, see `alignment_of`."""
    return {name: alignment_of(found) for name, found in sets.items() if isinstance(found, Aligned)}


def alignment_figures(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores of a row of `of_set` by `SCORE_FORM`, as far as a caption has them."""
    found = row.get(ALIGN_BENCH, {})
    scores = {f"{score}_{form}": found.get(score, {}).get(form) for score in SCORES for form in FORMS}
    return {name: value for name, value in scores.items() if value is not None}


def alignment_names() -> list[str]:
    """Return the names that `alignment_figures` can give."""
    return [f"{score}_{form}" for score in SCORES for form in FORMS]


def alignment_sections(results: Mapping[str, Any]) -> list[Section]:
    """Return the table of the scores, with what was left out; none where nothing was measured."""
    found = results.get(ALIGN_BENCH)
    if not found:
        return []
    told = [f"{one['pairs']:,}, {why} (the first is {one['first']})" for why, one in found["left_out"].items()]
    note = NOTE + (f" Left out: {'; '.join(told)}." if told else "")
    rows = tuple(
        (score, (*(_share(found[score], form) for form in FORMS), Cell(f"{found[score]['n']:,}"))) for score in SCORES
    )
    return [Section("ALIGN-BENCH: attention in the regions", note, ("boxes", "pixels", "captions"), rows)]


def _share(scores: Mapping[str, Any], form: str) -> Cell:
    share, even = scores[form], scores[f"{EVEN}{form}"]
    return Cell("") if share is None else Cell(f"{share:.1%}", f"{even:.1%}", share, even)
