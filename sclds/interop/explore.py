"""What a model completes on held-out data: the figures, examples and attention that the page of `sclds explore` shows.

Samples are read and masked as held-out evaluation does, so the page is a function of weights and data. Pairs that
training never packs (a masked image beside a wrong caption, or beside none) are run by the plain definition.

Shape suffixes: B samples, T text tokens, F frames, L patches of a frame, X pixels of a patch, V = F + F·L, C channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sclds.batch import SampleViews
from sclds.batch.duplicates import caption_identities, fingerprint, image_identities
from sclds.batch.patches import unpatchify
from sclds.config import Config, DatasetConfig
from sclds.config.errors import UserError
from sclds.data.media.decode import Decoder
from sclds.data.samples import HELDOUT, Loaded, SampleMaker
from sclds.data.storage.shards import BadSampleError, cache_of, open_index
from sclds.data.tokenizer import NO_WORD
from sclds.evaluation.completion import (
    CONDITIONS,
    GALLERIES,
    Completion,
    Condition,
    Gallery,
    completion,
    wrong_partners,
)
from sclds.evaluation.heldout import Progress, evenly_spaced
from sclds.evaluation.tasks import as_measured
from sclds.interop.conversions import read_model
from sclds.interop.loaded import LoadedModel
from sclds.interop.measure import find_target
from sclds.reference.standalone.parameters_scl import first_token
from sclds.report.explore_page import page
from sclds.report.explored import Example, Explored, ExploredKind
from sclds.report.page import write_page
from sclds.report.thumbnails import thumbnails

RETRIEVED = 5
"""Nearest complete features that are shown."""
KINDS = ("image", "video")
Texts = tuple[Tensor, Tensor]
"""Encoded texts (B, T, C), and where they are real (B, T)."""


def write_explore_page(
    path: Path,
    config: str | None,
    data: Sequence[str],
    overrides: Sequence[str],
    examples: int,
    out: Path,
    progress: Progress,
) -> None:
    """Write the page of a model.

    Args:
        path: A run, of which the newest checkpoint is taken, a checkpoint `step-…`, or a folder of weights.
        config: As of `find_target`, `data` and `overrides` too.
        data: Held-out sets instead of the configuration's.
        overrides: `key=value` settings.
        examples: Samples that are shown.
        out: The page.
        progress: Is told what is done, how much of it, and of how much.

    Raises:
        UserError: There is nothing to explore, data cannot be read, or the page cannot be written.
    """
    target = find_target(path, config, data, overrides)
    settings, folder = target.config, read_model(target.folder)
    explorer = Explorer(
        LoadedModel(folder, "cuda" if torch.cuda.is_available() else "cpu"), as_measured(settings), progress
    )
    try:
        kinds = explorer(examples)
    finally:
        explorer.close()
    weights, masking = settings.losses, settings.masking
    found = Explored(
        settings.name if target.checkpoint else path.resolve().name,
        folder.origin.source,
        masking.scl_vision_ratio,
        masking.scl_text_ratio,
        [name for name in ("mvsc", "mlsc") if target.checkpoint and not getattr(weights, name)],
        explorer.unusable,
        kinds,
    )
    write_page(out, page(found, thumbnails(settings, _shown(kinds))), "give another --out")


def _shown(kinds: Sequence[ExploredKind]) -> set[str]:
    """Return the samples whose picture the page shows."""
    numbers = [
        (of, number)
        for of in kinds
        for one in of.examples
        for number in (
            one.number,
            of.wrong[one.number],
            *(n for f in of.vision["trained"].found.values() for n in f[one.number]),
        )
    ]
    return {of.sample_ids[int(number)] for of, number in numbers if number >= 0}


@dataclass(frozen=True)
class _Read:
    """A held-out sample."""

    dataset: DatasetConfig
    number: int
    """In its data set."""
    views: SampleViews
    patches: Tensor
    """(F, L, X)."""


@dataclass
class _Features:
    """Fused [CLS] of all samples of a kind, batch by batch, (B, F, C) each; 1 frame for texts."""

    complete: dict[Gallery, list[Tensor]] = field(default_factory=lambda: {one: [] for one in GALLERIES})
    recovered: dict[Condition, list[Tensor]] = field(default_factory=lambda: {one: [] for one in CONDITIONS})


class Explorer:
    """Runs a model on the held-out samples of a configuration.

    Args:
        loaded: The model.
        config: Held-out sets, sizes and masks.
        progress: Is told what is done, how much of it, and of how much.
    """

    def __init__(self, loaded: LoadedModel, config: Config, progress: Progress):
        self._loaded, self._model, self._device = loaded, loaded.model, loaded.device
        self._config, self._progress = config, progress
        self._tokenizer, self._size = loaded.tokenizer, config.evaluation.batch_size
        self._decoder = Decoder(config, self._size)
        self._makers: dict[str, SampleMaker] = {}
        self.unusable = 0
        """Samples that were left out."""

    def close(self) -> None:
        """Close shards and decoder."""
        self._decoder.close()
        for maker in self._makers.values():
            maker.close()

    @torch.inference_mode()
    def __call__(self, examples: int) -> list[ExploredKind]:
        """Return what is found of each kind that has samples.

        Args:
            examples: Samples that are shown, over all kinds: at even distances, not chosen by result.

        Raises:
            UserError: Samples cannot be read, or none can be used.
        """
        kinds = [kind for kind in KINDS if any(one.kind == kind for one in self._config.data.heldout)]
        found = []
        for turn, kind in enumerate(kinds):
            wanted = examples // len(kinds) + (turn < examples % len(kinds))
            if (of_kind := self._kind(kind, wanted)) is not None:
                found.append(of_kind)
        if not found:
            raise UserError("none of the held-out samples can be used; `sclds data stats` says what is wrong with them")
        return found

    def _kind(self, kind: str, wanted: int) -> ExploredKind | None:
        vision, text = _Features(), _Features()
        views: list[SampleViews] = []
        places: list[tuple[DatasetConfig, int]] = []
        wrong: list[int] = []
        for batch in self._batches(kind):
            partner = self._complete(batch, vision, text)
            wrong += [len(views) + one if one >= 0 else -1 for one in partner.tolist()]
            views += [one.views for one in batch]
            places += [(one.dataset, one.number) for one in batch]
        if not views:
            return None
        has_wrong = torch.tensor(wrong) >= 0
        identity = {"vision": image_identities(views), "text": caption_identities(views)}
        completed: dict[str, dict[Gallery, Completion]] = {}
        for name, features in (("vision", vision), ("text", text)):
            recovered = {condition: torch.cat(rows) for condition, rows in features.recovered.items()}
            completed[name] = {
                gallery: completion(recovered, torch.cat(rows), torch.from_numpy(identity[name]), has_wrong, RETRIEVED)
                for gallery, rows in features.complete.items()
            }
        return ExploredKind(
            kind,
            [one.sample_id for one in views],
            [one.caption for one in views],
            wrong,
            **completed,
            examples=self._examples(places, evenly_spaced(len(views), wanted)),
        )

    def _batches(self, kind: str) -> Iterator[list[_Read]]:
        """Yield the usable samples of a kind."""
        for dataset in self._config.data.heldout:
            if dataset.kind != kind:
                continue
            index = open_index([dataset], cache_of(self._config.data))
            count = min(len(index), self._config.evaluation.max_samples)
            # of about the same size: a single last one would have no partner
            parts = np.array_split(np.arange(count), -(-count // self._size)) if count else []
            done = 0
            for part in parts:
                if batch := self._read(dataset, part.tolist()):
                    yield batch
                done += len(part)
                self._progress(f"Completing {dataset.name}", done, count)

    def _read(self, dataset: DatasetConfig, numbers: Sequence[int]) -> list[_Read]:
        """Read and decode samples of a data set, without those that cannot be used."""
        maker, read = self._maker(dataset), dict[int, Loaded]()
        for number in numbers:
            try:
                read[number] = maker(number, HELDOUT)
            except BadSampleError:
                self.unusable += 1
        decoded = self._decoder.each([one.encoded for one in read.values()]) if read else []
        found = []
        for (number, one), patches in zip(read.items(), decoded, strict=True):
            if patches is None:
                self.unusable += 1
                continue
            views = replace(one.views, image_id=fingerprint(one.encoded.content))
            found.append(_Read(dataset, number, views, patches.unflatten(0, (views.frames, views.grid**2))))
        return found

    def _maker(self, dataset: DatasetConfig) -> SampleMaker:
        if dataset.name not in self._makers:
            index = open_index([dataset], cache_of(self._config.data))
            self._makers[dataset.name] = SampleMaker(self._config, self._tokenizer, index)
        return self._makers[dataset.name]

    def _complete(self, batch: list[_Read], vision: _Features, text: _Features) -> Tensor:
        """Fuse the pairs of a batch, take in their [CLS], and return (B,) who is the wrong partner of each, or -1."""
        views = [one.views for one in batch]
        frames, video = views[0].frames, views[0].kind == "video"
        partner = wrong_partners(*(torch.from_numpy(f(views)) for f in (caption_identities, image_identities)))
        shown = partner.clamp(min=0).to(self._device)
        t0, t2 = (self._loaded.encode_tokens([getattr(one, name) for one in views]) for name in ("text", "text_scl"))
        empty = self._loaded.encode_tokens([[self._tokenizer.bos_id, self._tokenizer.eos_id]] * len(views))
        patches = torch.stack([one.patches for one in batch]).to(self._device)
        keep = torch.from_numpy(np.stack([one.keep for one in views])).to(self._device)
        v0, v1 = (self._model.encode_vision(patches, video, kept) for kept in (None, keep))
        blank = self._model.encode_vision(torch.zeros_like(patches[:1]), video).expand_as(v0)
        texts: dict[Condition, Texts] = {"own": t0, "wrong": (t0[0][shown], t0[1][shown]), "none": empty}
        for condition, words in texts.items():
            text_cls, frame_cls = self._fused(words, v1, frames)
            vision.recovered[condition].append(frame_cls)
            if condition == "own":
                text.complete["trained"].append(text_cls)
        for condition, seen in (("own", v0), ("wrong", v0[shown]), ("none", blank)):
            text_cls, frame_cls = self._fused(t2, seen, frames)
            text.recovered[condition].append(text_cls)
            if condition == "own":
                vision.complete["trained"].append(frame_cls)
        vision.complete["alone"].append(self._fused(empty, v0, frames)[1])
        text.complete["alone"].append(self._fused(t0, blank, frames)[0])
        return partner

    def _fused(self, text: Texts, vision: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Return the fused text [CLS] (B, 1, C) and frame [CLS] (B, F, C) on the CPU."""
        words, shown = self._model.fuse(*text, vision)
        return first_token(words, text[1])[:, None].float().cpu(), shown[:, :frames].float().cpu()

    def _examples(self, places: Sequence[tuple[DatasetConfig, int]], chosen: Sequence[int]) -> list[Example]:
        """Return the samples that are shown, read again."""
        return [self._example(number, self._read(*_single(places[number]))[0]) for number in chosen]

    def _example(self, number: int, read: _Read) -> Example:
        views, tokenizer = read.views, self._tokenizer
        hidden = torch.ones(views.grid**2, dtype=torch.bool)
        hidden[torch.from_numpy(views.keep)] = False
        mean, std = (torch.tensor(of)[:, None, None] for of in (self._config.data.mean, self._config.data.std))
        frames = unpatchify(read.patches.flatten(0, 1).float().cpu(), views.grid) * std + mean
        text = self._loaded.encode_tokens([views.text.tolist()])
        vision = self._model.encode_vision(read.patches[None].to(self._device), views.kind == "video")
        weights = self._model.attention(*text, vision)[0].mean(dim=0).cpu()
        of_patches = weights[:, views.frames :].unflatten(1, (views.frames, views.grid, views.grid))
        _, index = tokenizer.encode(views.caption, self._config.data.max_text_tokens)
        words = [one for one in dict.fromkeys(index) if one != NO_WORD]
        rows = [of_patches[torch.tensor(index) == word].mean(dim=0) for word in words]
        masked = set(views.scl_positions.tolist())
        pieces = tokenizer.pieces(views.text[1:-1].tolist())
        return Example(
            number,
            frames.clamp(0, 1),
            hidden.view(1, views.grid, views.grid).expand(views.frames, -1, -1),
            tuple(views.caption.split()[word] for word in words),
            torch.stack([of_patches[0], *rows]),
            tuple((piece, position in masked) for position, piece in enumerate(pieces, 1)),
        )


def _single(place: tuple[DatasetConfig, int]) -> tuple[DatasetConfig, list[int]]:
    return place[0], [place[1]]
