"""Encoded pictures and clips to normalised patches, by one DALI pipeline definition for CPU and GPU.

Each sample brings its window and its frame numbers as arguments, so DALI draws nothing at random.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sclds.config import Config, DataConfig
from sclds.data.clips import read_frames
from sclds.data.geometry import WHOLE, Window
from sclds.data.media_info import MediaInfo
from sclds.data.shards import BadSampleError, Kind
from sclds.errors import ConfigError

Source = Literal["picture", "clip", "frames"]
_CPU_CODECS = frozenset({"vp8", "vp9", "libvpx", "libvpx-vp9"})
_GPU_CODECS = _CPU_CODECS | {"mjpeg", "h264", "hevc", "av1", "libdav1d", "mpeg4"}


@dataclass(frozen=True)
class Encoded:
    """One sample to decode.

    Args:
        kind: What it shows.
        content: The encoded picture or clip.
        info: What `inspect` found.
        frames: (F,) numbers of the frames to take; [0] for a picture.
        window: The part that is seen.
    """

    kind: Kind
    content: bytes
    info: MediaInfo
    frames: NDArray[np.int32]
    window: Window = WHOLE


class BadMediaError(Exception):
    """Some samples of a batch cannot be decoded.

    Args:
        rows: Their places in the batch.
    """

    def __init__(self, rows: list[int]):
        super().__init__(f"samples {rows} of the batch cannot be decoded")
        self.rows = rows


class Decoder:
    """Decodes micro-batches of mixed pictures and clips. For one thread.

    Args:
        config: Sizes, normalisation, device and threads.
        batch_size: Most samples of one call.
        device_id: CUDA device for `data.device: mixed`.

    Raises:
        ConfigError: `data.device: mixed` on a machine without a GPU.
    """

    def __init__(self, config: Config, batch_size: int, device_id: int | None = None):
        if config.data.device == "mixed" and not torch.cuda.is_available():
            raise ConfigError(["data.device=mixed decodes on a CUDA device and this machine has none; use cpu"])
        self._data, self._patch, self._batch_size = config.data, config.model.vision.patch_size, batch_size
        self._device_id = (device_id or 0) if config.data.device == "mixed" else None
        self._pipelines: dict[Source, Any] = {}

    def __call__(self, samples: Sequence[Encoded]) -> Tensor:
        """Decode samples to patches.

        Args:
            samples: At most `batch_size`.

        Returns:
            (R, 3·p·p) float32, channel-major inside a patch; rows by sample, frame and patch (row-major). On the CUDA
            device for `data.device: mixed`.

        Raises:
            BadMediaError: Some samples cannot be decoded.
        """
        patches = self.each(samples)
        whole = [rows for rows in patches if rows is not None]
        if len(whole) < len(patches):
            raise BadMediaError([row for row, rows in enumerate(patches) if rows is None])
        return torch.cat(whole)

    def each(self, samples: Sequence[Encoded]) -> list[Tensor | None]:
        """Decode samples that may be damaged.

        Args:
            samples: At most `batch_size`.

        Returns:
            The patches of each, as a call gives them; None for one that cannot be decoded.
        """
        frames: dict[int, NDArray[np.uint8]] = {}
        rows: dict[Source, list[int]] = {"picture": [], "clip": [], "frames": []}
        for row, sample in enumerate(samples):
            source = self._source(sample)
            try:
                if source == "frames":
                    frames[row] = read_frames(sample.content, sample.frames.tolist())
                rows[source].append(row)
            except BadSampleError:
                continue
        patches: dict[int, Tensor] = {}
        for source, chosen in rows.items():
            if chosen:
                inputs = {row: frames.get(row, samples[row].content) for row in chosen}
                self._run(source, {row: samples[row] for row in chosen}, inputs, patches)
        return [patches.get(row) for row in range(len(samples))]

    def _source(self, sample: Encoded) -> Source:
        if sample.kind == "image":
            return "picture"
        known = _CPU_CODECS if self._device_id is None else _GPU_CODECS
        return "clip" if sample.info.codec in known and sample.info.regular else "frames"

    def _run(
        self,
        source: Source,
        samples: dict[int, Encoded],
        inputs: dict[int, bytes | NDArray[np.uint8]],
        patches: dict[int, Tensor],
    ) -> None:
        """Decode samples of one source into `patches`, without those that cannot be, found by halving the batch."""
        order = list(samples)
        try:
            decoded = self._decode(source, list(samples.values()), list(inputs.values()))
        except RuntimeError:
            self._pipelines.pop(source)  # DALI leaves a pipeline that failed unusable
            half = len(order) // 2
            for part in (order[:half], order[half:]) if half else ():
                self._run(source, {r: samples[r] for r in part}, {r: inputs[r] for r in part}, patches)
        else:
            patches.update(zip(order, patchify(decoded, self._patch), strict=True))

    def _decode(self, source: Source, samples: list[Encoded], inputs: list[bytes | NDArray[np.uint8]]) -> Tensor:
        """Run a pipeline.

        Returns:
            (n, F, 3, size, size) float32; valid until the next call.
        """
        if source not in self._pipelines:
            self._pipelines[source] = self._build(source)
        windows = [sample.window for sample in samples]
        feeds: dict[str, list[NDArray[Any]]] = {
            "content": [np.frombuffer(i, np.uint8) if isinstance(i, bytes) else i for i in inputs],
            "start": [np.array([w.top, w.left], np.float32) for w in windows],
            "end": [np.array([w.bottom, w.right], np.float32) for w in windows],
        }
        if source == "clip":
            feeds["frames"] = [sample.frames for sample in samples]
        (output,) = self._pipelines[source].run(**feeds)
        if self._device_id is None:
            decoded = torch.from_numpy(np.asarray(output.as_tensor()))
        else:
            decoded = torch.from_dlpack(output.as_tensor())
        return decoded.unsqueeze(1) if source == "picture" else decoded

    def _build(self, source: Source) -> Any:
        size = self._data.image_size if source == "picture" else self._data.video_size
        pipeline = _definition()(
            source,
            self._data,
            size,
            batch_size=self._batch_size,
            num_threads=self._data.decode_threads,
            device_id=self._device_id,
            # the loader's thread already runs ahead of training; DALI's own queue would only keep more buffers
            prefetch_queue_depth=1,
            exec_async=False,
            exec_pipelined=False,
        )
        pipeline.build()
        return pipeline


@cache
def _definition() -> Any:
    """Return the pipeline definition; DALI takes most of a second to import, so it waits for the first batch."""
    import nvidia.dali.fn
    import nvidia.dali.types
    from nvidia.dali import pipeline_def

    fn: Any = nvidia.dali.fn  # both modules fill themselves at run time, so their stubs are incomplete
    types: Any = nvidia.dali.types

    @pipeline_def
    def pictures(source: Source, data: DataConfig, size: int) -> Any:
        """Decode, cut to the window, scale and normalise: (3, size, size), or (F, 3, size, size) for clips."""
        if source == "frames":
            pixels = fn.external_source(name="content", dtype=types.UINT8, ndim=4, layout="FHWC")
            pixels = pixels.gpu() if data.device == "mixed" else pixels
        else:
            content = fn.external_source(name="content", dtype=types.UINT8, ndim=1)
            if source == "picture":
                pixels = fn.decoders.image(content, device=data.device, output_type=types.RGB)
            else:
                numbers = fn.external_source(name="frames", dtype=types.INT32, ndim=1)
                pixels = fn.decoders.video(content, frames=numbers, device=data.device, pad_mode="edge")
        start = fn.external_source(name="start", dtype=types.FLOAT, ndim=1)
        end = fn.external_source(name="end", dtype=types.FLOAT, ndim=1)
        scaled = fn.resize(pixels, size=[size, size], roi_start=start, roi_end=end, roi_relative=True)
        return fn.crop_mirror_normalize(
            scaled,
            dtype=types.FLOAT,
            output_layout="CHW" if source == "picture" else "FCHW",
            mean=[255 * value for value in data.mean],
            std=[255 * value for value in data.std],
        )

    return pictures


def patchify(pixels: Tensor, patch: int) -> Tensor:
    """Cut frames into patches.

    Args:
        pixels: (n, F, 3, H, W).
        patch: p, side of a patch in pixels; divides H and W.

    Returns:
        (n, F·(H/p)·(W/p), 3·p·p): channel-major inside a patch, patches by frame and row-major; always a copy.
    """
    n, frames, channels, height, width = pixels.shape
    cut = pixels.reshape(n, frames, channels, height // patch, patch, width // patch, patch)
    rows = cut.permute(0, 1, 3, 5, 2, 4, 6).contiguous()
    return rows.reshape(n, -1, channels * patch * patch)
