"""The DALI pipeline, one definition for CPU and GPU; everything random comes in as an argument.

decode the region → scale → RandAugment → normalize. On a GPU all of it is DALI's. On the CPU DALI decodes, and computes
RandAugment where it is on; scaling and normalizing are `sclds.data.media.scaling`, because DALI's CPU resize is slow.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sclds.config import DataConfig
from sclds.data.media.augment import augmented, filled
from sclds.data.media.encoded import Encoded
from sclds.data.media.geometry import Region

Source = Literal["image", "still", "video", "frames", "scaled"]
"""What comes in: an encoded image, one that Pillow decoded (as one frame), an encoded video, frames that FFmpeg
decoded, or frames scaled on the CPU."""

# the loader's thread already runs ahead of training; DALI's own queue would only keep more buffers
IN_TURN: dict[str, Any] = {"prefetch_queue_depth": 1, "exec_async": False, "exec_pipelined": False}
"""DALI's executor on the CPU: without a thread of its own, its memory used again at each run."""
DYNAMIC: dict[str, Any] = {"prefetch_queue_depth": 1, "exec_async": True, "exec_pipelined": True, "exec_dynamic": True}
"""DALI's executor on a GPU: memory of outputs is theirs until they are given up, and comes out of a pool that all
pipelines (image and video, of every size) share; outputs are handed over on a stream, without the host waiting."""


def source_of(sample: Encoded, data: DataConfig) -> Source:
    """Return who decodes a sample: DALI what is plain (videos on a GPU only), else the definition, Pillow or FFmpeg."""
    if sample.kind == "image":
        return "image" if sample.info.plain else "still"
    return "video" if sample.info.plain and data.device == "mixed" and data.nvdec else "frames"


def build_pipeline(source: Source, data: DataConfig, size: int, batch_size: int, device_id: int | None) -> Any:
    """Build a pipeline; `feeds` makes what its `run` takes.

    Args:
        source: What comes in.
        data: Device, threads, normalization, RandAugment.
        size: Side of the output in pixels.
        batch_size: Most samples of a call.
        device_id: The CUDA device of `data.device: mixed`, else None.
    """
    pipeline = _definition()(
        source,
        data,
        size,
        batch_size=batch_size,
        num_threads=data.decode_threads,
        device_id=device_id,
        **(DYNAMIC if data.device == "mixed" else IN_TURN),
    )
    pipeline.build()
    return pipeline


def feeds(
    source: Source, data: DataConfig, size: int, samples: Sequence[Encoded], inputs: Sequence[bytes | NDArray[np.uint8]]
) -> dict[str, list[NDArray[Any]]]:
    """Return the arguments of a call.

    Args:
        source: As the pipeline's.
        data: As the pipeline's.
        size: As the pipeline's.
        samples: The samples of the call.
        inputs: Of each sample what the source says, frames as (F, height, width, 3).
    """
    found: dict[str, list[NDArray[Any]]] = {
        "content": [np.frombuffer(i, np.uint8) if isinstance(i, bytes) else i for i in inputs]
    }
    if source == "image":
        regions = [_region(sample) for sample in samples]
        found["corner"] = [np.array(region[:2], np.int32) for region in regions]
        found["shape"] = [np.array(region[2:], np.int32) for region in regions]
    elif source == "video":
        found["frames"] = [sample.frames for sample in samples]
    if data.device == "mixed":
        ends = [_ends(sample, source, size) for sample in samples]
        found["start"], found["end"] = [start for start, _ in ends], [end for _, end in ends]
    if data.randaugment_operations and (data.device == "mixed" or source == "scaled"):
        drawn = [filled(sample.augmentation, data) for sample in samples]
        found["operations"] = [one.operations for one in drawn]
        found["negated"] = [one.negated for one in drawn]
    return found


def _region(sample: Encoded) -> Region:
    return sample.window.region or Region(0, 0, sample.info.height, sample.info.width)


def _ends(sample: Encoded, source: Source, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the corners of the window in shares of what was decoded; outside of it the edge repeats, and exchanged
    sides mirror it.
    """
    top, left, height, width = _region(sample)
    if source == "image":  # only the region was decoded
        top, left, whole_height, whole_width = 0, 0, height, width
    else:
        whole_height, whole_width = sample.info.height, sample.info.width
    above, before = top - height * sample.window.down / size, left - width * sample.window.right / size
    start, end = [above, before], [above + height, before + width]
    if sample.window.mirrored:
        start[1], end[1] = end[1], start[1]
    whole = np.array([whole_height, whole_width], np.float32)
    return np.array(start, np.float32) / whole, np.array(end, np.float32) / whole


@cache
def _definition() -> Any:
    """Return the pipeline definition; DALI takes most of a second to import, so it waits for the first batch."""
    import nvidia.dali.fn
    import nvidia.dali.types
    from nvidia.dali import pipeline_def

    fn: Any = nvidia.dali.fn  # both modules fill themselves at run time, so their stubs are incomplete
    types: Any = nvidia.dali.types

    def argument(name: str, kind: Any) -> Any:
        return fn.external_source(name=name, dtype=kind, ndim=1)

    @pipeline_def(enable_conditionals=True)
    def images(source: Source, data: DataConfig, size: int) -> Any:
        """On the CPU decoded or augmented uint8; on a GPU (3, size, size), or (F, 3, size, size) for videos, float."""
        on_gpu = data.device == "mixed"
        if source in ("still", "frames", "scaled"):
            pixels = fn.external_source(name="content", dtype=types.UINT8, ndim=4, layout="FHWC")
        elif source == "image":
            hardware = {"hw_decoder_load": data.hw_decoder_load} if on_gpu else {}
            pixels = fn.decoders.image_slice(
                argument("content", types.UINT8),
                start=argument("corner", types.INT32),
                shape=argument("shape", types.INT32),
                axis_names="HW",
                device=data.device,
                output_type=types.RGB,
                adjust_orientation=False,  # `orientation.py` decides, and what it turns does not come here
                **hardware,
            )
        else:
            pixels = fn.decoders.video(
                argument("content", types.UINT8),
                frames=argument("frames", types.INT32),
                device="mixed",
                pad_mode="edge",
            )
        if on_gpu:
            start, end = argument("start", types.FLOAT), argument("end", types.FLOAT)
            pixels = fn.resize(pixels.gpu(), size=[size, size], roi_start=start, roi_end=end, roi_relative=True)
        if data.randaugment_operations and (on_gpu or source == "scaled"):
            operations, negated = argument("operations", types.INT32), argument("negated", types.INT32)
            pixels = augmented(pixels, operations, negated, data, size)
        if not on_gpu:
            return pixels
        return fn.crop_mirror_normalize(
            pixels,
            dtype=types.FLOAT,
            output_layout="CHW" if source == "image" else "FCHW",
            mean=[255 * value for value in data.mean],
            std=[255 * value for value in data.std],
        )

    return images
