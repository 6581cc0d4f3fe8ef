"""Batches of a downstream task: examples with their images in training order, or held-out ones in theirs.

All of the way of pre-training's samples is taken: order, crops, RandAugment, decoding, quarantine, replacement.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from sclds.batch import Batch, SampleViews
from sclds.batch.matches import empty_views, pack_matches
from sclds.batch.packing import identities_of
from sclds.batch.placed import HOST
from sclds.batch.ragged import Ints
from sclds.config import Config, DatasetConfig
from sclds.data.keys import seed_of
from sclds.data.loader import Assembler, HeldoutReader, TrainingBatches
from sclds.data.media.decode import Decoder
from sclds.data.quarantine import Quarantine
from sclds.data.samples import Loaded, Occasion, SampleMaker, Shown
from sclds.data.storage.shards import SampleIndex, left_out_sentences
from sclds.data.tokenizer import Tokenizer
from sclds.objectives import objectives_in_use
from sclds.tasks import task_of
from sclds.tasks.annotations import SECOND, ExampleIndex, classes_of, open_examples, shared_images
from sclds.tasks.definition import Example, Scores

TENTHS = 10


@dataclass(frozen=True)
class TaskBatch(Batch):
    """A micro-batch of n examples, packed by `pack_matches`; the pairs of an example are neighbors.

    `samples` are the images, of which each is encoded once for all examples that ask about it.
    """

    scores: Tensor
    """(n, classes) uint8, how right every class is, in tenths."""
    second: Tensor
    """(Nv,) bool, which vision tokens are of a second image."""
    example_ids: tuple[str, ...] = field(metadata=HOST)
    pairs_per_example: int = field(metadata=HOST)


@dataclass(frozen=True)
class ExampleViews(SampleViews):
    """One example, and the others that ask about the same image with it."""

    example_id: str = ""
    scores: Scores = ()
    images: int = 1
    others: tuple["ExampleViews", ...] = ()


class ExampleMaker(SampleMaker):
    """Reads examples.

    Args:
        config: The run.
        tokenizer: Encodes questions and statements.
        examples: The index.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, examples: ExampleIndex):
        super().__init__(config, tokenizer, examples.index)
        self._examples, self._images = examples.examples, task_of(config).images

    def __call__(self, sample: int, occasion: Occasion) -> Loaded:
        """Read an image and all that a sample asks about it, see `SampleMaker`."""
        first, *others = (self._views(example, self.shown(sample), occasion) for example in self._examples[sample])
        second = self.encoded(sample, occasion, SECOND) if self._images == 2 else None
        return Loaded(replace(first, others=tuple(others)), self.encoded(sample, occasion), second)

    def _views(self, example: Example, shown: Shown, occasion: Occasion) -> ExampleViews:
        ids = self.token_ids(example.text)
        key = seed_of(self._config.seed, "dropout", *occasion, example.example_id)
        return ExampleViews(
            **empty_views(shown.sample_id, example.text, shown.kind, shown.frames, shown.grid, ids, key),
            example_id=example.example_id,
            scores=example.target or (),
            images=self._images,
        )


class TaskAssembler(Assembler):
    """Packs examples."""

    classes = 0
    """Of the task; set by whoever makes it."""

    def _with_partners(self, views: list[SampleViews], occasion: Occasion, first_group: int) -> list[SampleViews]:
        return views

    def _pack(self, views: list[SampleViews], patches: Tensor) -> TaskBatch:
        assert self._config.task is not None
        if not self._config.task.use_image:
            patches = torch.zeros_like(patches)
        if task_of(self._config).reads_captions:
            return self._ranked(views, patches)
        shown = [view for view in views if isinstance(view, ExampleViews)]
        examples = [example for view in shown for example in (view, *view.others)]
        images = shown[0].images
        of_example = np.repeat(np.arange(len(shown)), [1 + len(view.others) for view in shown])
        pairs = [(text, images * row + image) for text, row in enumerate(of_example) for image in range(images)]
        media = [view for view in shown for _ in range(images)]
        batch = pack_matches(examples, media, np.array(pairs), patches, self._recipe)
        scores = torch.zeros(len(examples), self.classes, dtype=torch.uint8)
        for row, example in enumerate(examples):
            for name, tenths in example.scores:
                scores[row, name] = tenths
        captions = tuple(" ".join(example.caption for example in (view, *view.others)) for view in shown)
        return _task_batch(batch, captions, scores, tuple(example.example_id for example in examples), images)

    def _ranked(self, views: list[SampleViews], patches: Tensor) -> TaskBatch:
        """Pack every image of a group beside every caption of it; its own is the right one."""
        group, count = self._config.batch.group_size, len(views)
        image = np.repeat(np.arange(count), group)
        caption = image // group * group + np.tile(np.arange(group), count)
        batch = pack_matches(views, views, np.stack((caption, image), axis=1), patches, self._recipe)
        batch = replace(
            batch,
            identities=identities_of(views, self._recipe.losses),
            objectives=objectives_in_use(self._recipe.losses),
        )
        scores = TENTHS * torch.eye(group, dtype=torch.uint8).repeat(count // group, 1)
        captions = tuple(view.caption for view in views)
        return _task_batch(batch, captions, scores, tuple(view.sample_id for view in views), group)


def _task_batch(
    batch: Batch, captions: tuple[str, ...], scores: Tensor, example_ids: tuple[str, ...], pairs: int
) -> TaskBatch:
    samples = replace(batch.samples, captions=captions)
    counts = replace(batch.counts, samples=len(example_ids))
    lengths = batch.lengths.vision_cu_seqlens.diff().numpy()
    second: Ints = np.repeat(np.array(batch.samples.order) % 2 == 1, lengths)
    if len(batch.samples.order) != 2 * len(captions):
        second = np.zeros_like(second)
    fields = vars(batch) | {"samples": samples, "counts": counts}
    return TaskBatch(
        **fields,
        scores=scores,
        second=torch.from_numpy(second),
        example_ids=example_ids,
        pairs_per_example=pairs,
    )


class TaskBatches(TrainingBatches):
    """The training batches of a task for one process, see `TrainingBatches`."""

    def _open_index(self) -> SampleIndex:
        if task_of(self._config).reads_captions:
            return super()._open_index()
        self.examples = open_examples(self._config, self._config.data.train, learns=True)
        return self.examples.index

    def sentences(self) -> list[str]:
        """Return a line for each set of which something is left out, or whose images are held out too."""
        if task_of(self._config).reads_captions:
            return left_out_sentences(self.index)
        heldout = open_examples(self._config, self._config.data.heldout, learns=False)
        told = heldout.sentences(self._config.evaluation.max_samples)
        return self.examples.sentences() + told + shared_images(self.examples, heldout)

    def _assembler(self) -> Assembler:
        config, tokenizer = self._config, self._tokenizer
        task = task_of(config)
        maker: SampleMaker
        if task.reads_captions:
            maker = SampleMaker(config, tokenizer, self.index)
        else:
            maker = ExampleMaker(config, tokenizer, self.examples)
        decoder = Decoder(config, task.images * self._micro_size, self._device_id)
        assembler = TaskAssembler(config, tokenizer, self.index, maker, decoder, self.quarantine)
        assembler.classes = len(classes_of(config))
        return assembler


class ExampleReader(HeldoutReader):
    """Packs held-out examples, see `HeldoutReader`.

    Args:
        config: The run.
        tokenizer: Encodes questions and statements.
        size: Most examples of a batch.
        quarantine: Counts and names unusable ones, which are left out.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, size: int, quarantine: Quarantine | None = None):
        super().__init__(config, tokenizer, size, quarantine)
        self._indexes: dict[str, ExampleIndex] = {}

    def examples(self, dataset: DatasetConfig) -> ExampleIndex:
        """Return the examples of a set, which is read once."""
        if dataset.name not in self._indexes:
            self._indexes[dataset.name] = open_examples(self._config, [dataset], learns=False)
        return self._indexes[dataset.name]

    def _assembler(self, dataset: DatasetConfig) -> Assembler:
        examples, config = self.examples(dataset), self._config
        maker = ExampleMaker(config, self._tokenizer, examples)
        decoder = Decoder(config, task_of(config).images * self._size, self._device_id)
        assembler = TaskAssembler(config, self._tokenizer, examples.index, maker, decoder, self._quarantine)
        assembler.classes = len(classes_of(config))
        return assembler
