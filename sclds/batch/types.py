"""The typed batch that data, model and losses share: all views of a micro-batch in packed buffers without padding.

Shape suffixes in the field docs: B samples, Nt and Nv packed text and vision tokens, R patch rows, S segments. Index
tensors are int64, cumulative lengths int32. Everything is frozen and moves as a whole (`Placed.to`, `in_one_block`);
what attention was planned from stays on the host. CONTRIBUTING.md ("The batch") describes the layout.
"""

from dataclasses import dataclass, field

from torch import Tensor

from sclds.batch.attention_plan import AttentionPlan, FusionAttention
from sclds.batch.placed import HOST, Placed
from sclds.objectives import Objective, Read


@dataclass(frozen=True)
class TextViews(Placed):
    """All text views, t0 of all samples, then t1, then t2 where they are in use."""

    ids: Tensor
    """(Nt,) token ids."""
    positions: Tensor
    """(Nt,) position ids."""
    cls: Tensor
    """(B,) row of each sample's [CLS] in t0."""
    attention: AttentionPlan
    """Every token attends to its own view."""
    names: tuple[str, ...] = field(metadata=HOST)


@dataclass(frozen=True)
class VideoAttention(Placed):
    """The frame [CLS] tokens of videos, which attend to all frames; views of videos are one contiguous range."""

    start: int
    """First vision token of the videos."""
    cls: Tensor
    """(frames of all video views,) rows of their frame [CLS] tokens."""
    plan: AttentionPlan
    """Queries are the rows of `cls`, keys the tokens from `start` on."""


@dataclass(frozen=True)
class FramePooling(Placed):
    """For towers without a [CLS] token: patches among themselves, and the pooling that fills a frame's [CLS] row."""

    patch_rows: Tensor
    """(patches,) vision tokens that are patches."""
    cls_rows: Tensor
    """(frames,) vision tokens that stand for the [CLS] of a frame."""
    merged: Tensor
    """(Nv,) row of each vision token in a buffer of all frames' pooled rows, all patches below them."""
    attention: AttentionPlan
    """Every patch attends to the patches of its own frame."""
    pooling: AttentionPlan
    """Queries are the rows of `cls_rows`, keys the patches: of its image, or of all frames of its video."""


@dataclass(frozen=True)
class FrameRows(Placed):
    """Where the samples that have a frame of some number hold it."""

    rows: Tensor
    """(n,) rows among the frames of all samples, one sample behind the other."""
    samples: Tensor
    """(n,) the samples that have it."""
    frame_count: Tensor
    """(n,) frames of these samples, int64."""


@dataclass(frozen=True)
class VisionViews(Placed):
    """All vision views as frame segments `[CLS, patches]`; images of all views first, then videos of all views."""

    patches: Tensor
    """(R, 3·p·p) float normalized pixels, channel-major inside a patch; rows by sample, frame, patch row-major."""
    source: Tensor
    """(Nv,) row of `patches`; `CLASS_ROW` [CLS], `MASK_ROW` the mask token."""
    position: Tensor
    """(Nv,) row of the position tables of all grids, one below the other."""
    frame: Tensor
    """(Nv,) frame number; -1 for images, which carry no temporal embedding."""
    cls: Tensor
    """(B, most frames) rows of each sample's frame [CLS] tokens in v0; -1 where it has fewer frames."""
    frames: tuple[FrameRows, ...]
    """By frame number, as many as a sample of the run may have frames."""
    attention: AttentionPlan
    """Every token attends to its own frame."""
    videos: VideoAttention | None
    """None without a video."""
    names: tuple[str, ...] = field(metadata=HOST)
    grids: tuple[int, ...] = field(metadata=HOST)
    """Patches per side of every grid of the run; their position tables lie one below the other."""
    pooling: FramePooling | None = None
    """Where the vision tower pools frames (`VisionConfig.pools_frames`); `attention` and `videos` are not read then."""


@dataclass(frozen=True)
class DropoutKeys(Placed):
    """Keys, one a row, from which dropout draws; see `sclds.batch.dropout_keys`."""

    text: Tensor
    """(Nt,) int64, of the text views."""
    vision: Tensor
    """(Nv,) int64, of the vision views."""
    text_pairs: Tensor
    """(rows of all pairs,) int64, of the text stream."""
    vision_pairs: Tensor
    """The same for vision."""


@dataclass(frozen=True)
class Pairs(Placed):
    """The fusion pairs, by pair of the method, each of all samples in packing order."""

    text_rows: Tensor
    """(rows of all pairs,) from rows of the text views to rows of the pairs."""
    vision_rows: Tensor
    """The same for vision."""
    attention: FusionAttention
    names: tuple[str, ...] = field(metadata=HOST)


@dataclass(frozen=True)
class Reads(Placed):
    """The rows that the last fusion layer has to give, and where each reader finds its own among them."""

    text_rows: Tensor
    """(read rows,) rows of the text pairs."""
    vision_rows: Tensor
    """The same for vision."""
    places: dict[Read, Tensor]
    """By read, rows of the last layer's output in the order of the samples; (B, most frames) with -1 where there is no
    such frame for ITM's frame [CLS], else (rows,)."""


@dataclass(frozen=True)
class Labels(Placed):
    """What the classifying heads are to find."""

    mlm: Tensor
    """(predicted words,) token ids."""
    itm: Tensor
    """(B,) 1 where the text is shown with its own image or video."""


@dataclass(frozen=True)
class HardNegatives(Placed):
    """What the device needs to draw hard ITM negatives (G members a group), see `sclds.model.negatives`."""

    members: Tensor
    """(B, G) samples of each sample's group."""
    allowed: Tensor
    """(B, G) bool, which of them may be its wrong partner."""
    draw: Tensor
    """(B,) counter below `ITM_DRAWS` that chooses among them."""
    partner: Tensor
    """(B,) partner that the pair was packed with; it stays where no other is allowed."""
    vision_start: Tensor
    """(B,) first row of each sample's v0."""
    row_sample: Tensor
    """(rows of the ITM pairs,) sample of each row."""
    row_offset: Tensor
    """(rows of the ITM pairs,) place of each row in its view."""
    first_row: int
    """First row of the ITM pairs among the vision rows of all pairs."""


@dataclass(frozen=True)
class Identities(Placed):
    """By what samples are known to be duplicates; exact over the global batch, since the numbers are of the content."""

    caption: Tensor
    """(B,) fingerprint of each caption, see `sclds.batch.duplicates`."""
    image: Tensor
    """(B,) fingerprint of each image or video."""


@dataclass(frozen=True)
class Lengths:
    """Cumulative lengths on the host, each (segments + 1,) int32: what attention is planned from."""

    text_cu_seqlens: Tensor
    """Text views, view by view, each in packing order."""
    frame_cu_seqlens: Tensor
    """Frames of all vision views."""
    vision_cu_seqlens: Tensor
    """Vision views: of images view by view, then of videos view by view."""
    video_cu_seqlens: Tensor
    """Vision views of videos alone, from 0."""
    video_cls_cu_seqlens: Tensor
    """Their frame [CLS] tokens."""
    pair_text_cu_seqlens: Tensor
    """Text side of the pairs."""
    pair_vision_cu_seqlens: Tensor
    """Vision side of the pairs."""
    read_text_cu_seqlens: Tensor
    """Read rows of the pairs whose text output is read."""
    read_vision_cu_seqlens: Tensor
    """Read rows of the pairs whose vision output is read."""


@dataclass(frozen=True)
class Samples:
    """Who is in the batch, in the order of the global batch."""

    ids: tuple[str, ...]
    captions: tuple[str, ...]
    kinds: tuple[str, ...]
    """`image` or `video`."""
    frames: tuple[int, ...]
    """Of each sample."""
    order: tuple[int, ...]
    """Samples in the order in which their tokens lie in the buffers."""


@dataclass(frozen=True)
class Counts:
    """What means are taken over, known on the host."""

    samples: int
    words: int
    """Words that MLM predicts."""
    completed: int
    """Tokens that t2 masks, where an objective reads them."""
    replaced_per_group: tuple[int, ...]
    """Patches of all frames that v2 replaces, per group of samples; empty where no objective reads them."""
    samples_with_frame: tuple[int, ...]
    """By frame number, as many as a sample of the run may have frames: the samples that have it."""
    itm_alone: int = 0
    """Texts that ITM shows matched because no member of their group could be a wrong partner."""

    @property
    def replaced(self) -> int:
        """Patches that v2 replaces."""
        return sum(self.replaced_per_group)


@dataclass(frozen=True)
class Batch(Placed):
    """A micro-batch of B samples, images and videos together."""

    text: TextViews
    vision: VisionViews
    pairs: Pairs
    reads: Reads
    labels: Labels
    negatives: HardNegatives | None
    """Where `losses.itm_negatives` is hard."""
    identities: Identities | None
    """Where duplicates are not negatives (`losses.duplicates`)."""
    dropout_keys: DropoutKeys
    lengths: Lengths = field(metadata=HOST)
    samples: Samples = field(metadata=HOST)
    counts: Counts = field(metadata=HOST)
    objectives: tuple[Objective, ...] = field(metadata=HOST)
    """What the batch was packed for."""
