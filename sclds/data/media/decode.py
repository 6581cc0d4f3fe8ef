"""Encoded images and videos to normalized patches: DALI's pipeline, Pillow and FFmpeg for what it makes otherwise, and
threads around them.

Each sample brings its window, its frame numbers and its augmentation as arguments, so nothing is drawn here.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sclds.batch.patches import patchify
from sclds.config import Config, DataConfig
from sclds.config.errors import ConfigError
from sclds.data.media.buffers import Buffers
from sclds.data.media.encoded import Encoded
from sclds.data.media.handover import Handover
from sclds.data.media.images import read_image
from sclds.data.media.pipeline import Source, build_pipeline, feeds, source_of
from sclds.data.media.scaling import Frames, PatchLayout, cut, scale
from sclds.data.media.videos import read_frames
from sclds.data.storage.shards import BadSampleError

__all__ = ["BadMediaError", "Decoder", "Encoded", "joined"]

T = TypeVar("T")
R = TypeVar("R")
Inputs = dict[int, bytes | Frames]


class BadMediaError(Exception):
    """Some samples of a batch cannot be decoded.

    Args:
        rows: Their places in the batch.
    """

    def __init__(self, rows: list[int]):
        super().__init__(f"samples {rows} of the batch cannot be decoded")
        self.rows = rows


def check_device(data: DataConfig) -> None:
    """Refuse `data.device: mixed` on a machine without a GPU.

    Raises:
        ConfigError: It has none.
    """
    if data.device == "mixed" and not torch.cuda.is_available():
        raise ConfigError(["data.device=mixed decodes on a CUDA device and this machine has none; use cpu"])


def decoding_device(data: DataConfig) -> int | None:
    """Return the number of this process's CUDA device where images are decoded on one, else None.

    Raises:
        ConfigError: They are to be, and there is none.
    """
    check_device(data)
    return torch.cuda.current_device() if data.device == "mixed" else None


class Decoder:
    """Decodes micro-batches of mixed images and videos. For one thread; `close` ends its own.

    Args:
        config: Sizes, normalization, device and threads.
        batch_size: Most samples of one call.
        device_id: CUDA device for `data.device: mixed`.

    Raises:
        ConfigError: `data.device: mixed` on a machine without a GPU.
    """

    def __init__(self, config: Config, batch_size: int, device_id: int | None = None):
        check_device(config.data)
        self._data, self._patch, self._batch_size = config.data, config.model.vision.patch_size, batch_size
        self._device_id = (device_id or 0) if config.data.device == "mixed" else None
        self._handover = None if self._device_id is None else Handover(self._device_id)
        self._layout = PatchLayout(self._patch, config.data.mean, config.data.std)
        self._buffers = Buffers()
        self._pipelines: dict[tuple[Source, int], Any] = {}
        self._pool = ThreadPoolExecutor(config.data.decode_threads, thread_name_prefix="decode")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
        self._pipelines.clear()

    def __call__(self, samples: Sequence[Encoded]) -> Tensor:
        """Decode samples to patches.

        Args:
            samples: At most `batch_size`.

        Returns:
            (R, 3·p·p) float32, channel-major inside a patch; rows by sample, frame and patch (row-major). On the CUDA
            device for `data.device: mixed`, else in pinned memory where there is a CUDA device.

        Raises:
            BadMediaError: Some samples cannot be decoded.
        """
        patches = self.each(samples)
        whole = [rows for rows in patches if rows is not None]
        if len(whole) < len(patches):
            raise BadMediaError([row for row, rows in enumerate(patches) if rows is None])
        return joined(whole)

    def each(self, samples: Sequence[Encoded]) -> list[Tensor | None]:
        """Decode samples that may be damaged.

        Args:
            samples: At most `batch_size`.

        Returns:
            The patches of each, as a call gives them; None for one that cannot be decoded. `joined` puts them together.
        """
        rows: dict[Source, list[int]] = {"image": [], "still": [], "video": [], "frames": []}
        for row, sample in enumerate(samples):
            rows[source_of(sample, self._data)].append(row)
        defined = rows["still"] + rows["frames"]
        frames = dict(zip(defined, self._each(_frames, [samples[row] for row in defined]), strict=True))
        inputs: Inputs = {row: sample.content for row, sample in enumerate(samples) if row not in frames}
        inputs |= {row: found for row, found in frames.items() if found is not None}
        decoded: dict[int, Any] = {}
        for source, chosen in rows.items():
            for size in sorted({self._size(samples[row]) for row in chosen}):
                alike = [row for row in chosen if row in inputs and self._size(samples[row]) == size]
                self._run(source, size, samples, {row: inputs[row] for row in alike}, decoded)
        if self._device_id is None:
            decoded = self._laid_out({row: samples[row] for row in sorted(decoded)}, decoded)
        return [decoded.get(row) for row in range(len(samples))]

    def _size(self, sample: Encoded) -> int:
        return self._data.image_size if sample.kind == "image" else self._data.video_size

    def _run(
        self, source: Source, size: int, samples: Sequence[Encoded], inputs: Inputs, decoded: dict[int, Any]
    ) -> None:
        """Decode rows of one source and size, without those that cannot be, found by halving the batch.

        Args:
            source: The rows' source.
            size: Side of their output.
            samples: All samples of the batch.
            inputs: Of the rows to decode.
            decoded: Takes (F, size, size, 3) uint8 a row; on a GPU its patches.
        """
        rows = list(inputs)
        if not rows:
            return
        try:
            self._decode(source, size, [samples[row] for row in rows], inputs, decoded)
        except RuntimeError:
            self._pipelines.pop((source, size), None)  # DALI leaves a pipeline that failed unusable
            half = len(rows) // 2
            for part in (rows[:half], rows[half:]) if half else ():
                self._run(source, size, samples, {row: inputs[row] for row in part}, decoded)
            if source == "image" and not half and (frames := _frames(samples[rows[0]])) is not None:
                self._run("still", size, samples, {rows[0]: frames}, decoded)  # the definition has the last word

    def _decode(
        self, source: Source, size: int, samples: list[Encoded], inputs: Inputs, decoded: dict[int, Any]
    ) -> None:
        if self._handover is not None:
            arguments = feeds(source, self._data, size, samples, [*inputs.values()])
            pipeline = self._pipeline(source, size)
            patches = self._handover(lambda stream: pipeline.run(stream, **arguments)[0].as_tensor(), self._patches)
            decoded.update(zip(inputs, patches, strict=True))
            return
        frames: Sequence[Any] = [*inputs.values()]
        if source == "image":  # nothing else goes through DALI on the CPU
            (output,) = self._pipeline(source, size).run(**feeds(source, self._data, size, samples, frames))
            # the regions alone; valid until the next call, and scaling copies
            frames = [np.asarray(part)[None] for part in output]
        else:
            frames = [cut(part, sample.window) for part, sample in zip(frames, samples, strict=True)]
        scaled = self._each(lambda i: scale(frames[i], samples[i].window, size), range(len(samples)))
        decoded.update(zip(inputs, scaled, strict=True))

    def _patches(self, pixels: Tensor) -> Tensor:
        """Copy pixels on a GPU, (B, [F,] 3, size, size), to (B, F·(size/p)², 3·p·p)."""
        frames = pixels if pixels.ndim == 5 else pixels.unsqueeze(1)
        return patchify(frames, self._patch).flatten(1, 2)

    def _laid_out(self, samples: dict[int, Encoded], decoded: dict[int, Frames]) -> dict[int, Tensor]:
        """Augment decoded frames on the CPU, where that is on, and lay them out in one tensor."""
        self._augment(samples, decoded)
        counts = [len(decoded[row]) * (decoded[row].shape[1] // self._patch) ** 2 for row in samples]
        patches = self._buffers.take(sum(counts), 3 * self._patch**2)
        parts = dict(zip(samples, patches.split(counts), strict=True))
        self._each(lambda row: self._layout.write(decoded[row], parts[row].numpy()), list(samples))
        return parts

    def _augment(self, samples: dict[int, Encoded], decoded: dict[int, Frames]) -> None:
        changed = [row for row, sample in samples.items() if len(sample.augmentation.operations)]
        for size in sorted({decoded[row].shape[1] for row in changed}):
            rows = [row for row in changed if decoded[row].shape[1] == size]
            frames = [np.ascontiguousarray(decoded[row]) for row in rows]
            arguments = feeds("scaled", self._data, size, [samples[row] for row in rows], frames)
            (output,) = self._pipeline("scaled", size).run(**arguments)
            decoded.update(zip(rows, map(np.array, output), strict=True))

    def _pipeline(self, source: Source, size: int) -> Any:
        if (source, size) not in self._pipelines:
            built = build_pipeline(source, self._data, size, self._batch_size, self._device_id)
            self._pipelines[source, size] = built
        return self._pipelines[source, size]

    def _each(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Apply a function to items in the pool, a stretch of them per thread."""
        threads = min(self._data.decode_threads, len(items))
        if threads <= 1:
            return [function(item) for item in items]
        bounds = np.linspace(0, len(items), threads + 1).astype(int)
        stretches = [items[a:b] for a, b in pairwise(bounds.tolist())]
        return [found for part in self._pool.map(lambda part: [function(i) for i in part], stretches) for found in part]


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate rows; without a copy where they are all rows of one tensor in order, as `Decoder.each` gives them."""
    first, ends = parts[0], np.cumsum([part.nbytes for part in parts])
    memory = first.untyped_storage().data_ptr()
    if all(part.untyped_storage().data_ptr() == memory for part in parts):
        starts = [part.data_ptr() - first.data_ptr() for part in parts]
        if starts == [0, *ends[:-1].tolist()]:
            return first.as_strided((sum(map(len, parts)), first.shape[1]), first.stride())
    return torch.cat(list(parts))


def _frames(sample: Encoded) -> Frames | None:
    """Return an image as one frame or the frames of a video, or None if one of them cannot be decoded."""
    try:
        if sample.kind == "image":
            return read_image(sample.content)[None]
        return read_frames(sample.content, sample.frames.tolist())
    except BadSampleError:
        return None
