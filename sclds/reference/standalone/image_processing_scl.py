# SPDX-License-Identifier: Apache-2.0
"""Images and videos to the normalized pixels that held-out evaluation shows a model.

An image is turned upright, stretched to a square (bilinear, weighted by area where it shrinks, on whole numbers as
Pillow rounds them) and normalized; of a video, the middle frames of equal stretches are taken.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers.image_processing_base import BatchFeature, ImageProcessingMixin


class SCLImageProcessor(ImageProcessingMixin):
    """Makes `pixel_values` of images, `pixel_values_videos` of videos.

    Args:
        size: Side of an image, `{"height", "width"}`.
        video_size: Side of a frame of a video.
        num_frames: Frames taken of a video.
        image_mean: Channel means that are subtracted, of pixels in [0, 1].
        image_std: Channel deviations that pixels are divided by.
        kwargs: What transformers adds.
    """

    model_input_names = ["pixel_values", "pixel_values_videos"]  # noqa: RUF012

    def __init__(
        self,
        size: dict[str, int] | None = None,
        video_size: int = 224,
        num_frames: int = 4,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.size = size or {"height": 224, "width": 224}
        self.video_size, self.num_frames = video_size, num_frames
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self.resample, self.do_center_crop = "bilinear", False

    def __call__(
        self, images: Any = None, videos: Any = None, return_tensors: str = "pt", **unused: Any
    ) -> BatchFeature:
        """Return `pixel_values` (N, 3, S, S) of images and `pixel_values_videos` (N, F, 3, S, S) of videos.

        Args:
            images: One or several: Pillow images, or uint8 arrays or tensors (H, W), (H, W, 3) or (3, H, W).
            videos: One or several: each its frames in order, as (n, H, W, 3) or (n, 3, H, W), or a list of images.
            return_tensors: `pt`, or `np`.
            unused: What a processor may add.

        Raises:
            ValueError: A value is no image of whole numbers from 0 to 255.
        """
        found = {}
        if images is not None:
            one = isinstance(images, Image.Image) or (hasattr(images, "ndim") and images.ndim < 4)
            rows = [self._pixels([rgb(image)], self.size["height"])[0] for image in ([images] if one else images)]
            found["pixel_values"] = torch.stack(rows)
        if videos is not None:
            one = (hasattr(videos, "ndim") and videos.ndim == 4) or isinstance(videos[0], Image.Image)
            found["pixel_values_videos"] = torch.stack([self._video(v) for v in ([videos] if one else videos)])
        if return_tensors == "np":
            return BatchFeature({name: tensor.numpy() for name, tensor in found.items()})
        return BatchFeature(found)

    preprocess = __call__

    def _video(self, frames: Any) -> Tensor:
        """Return (F, 3, S, S) of the frames at the middle of F equal stretches."""
        count, wanted = len(frames), self.num_frames
        numbers = [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]
        return self._pixels([rgb(frames[number]) for number in numbers], self.video_size)

    def _pixels(self, frames: list[np.ndarray], size: int) -> Tensor:
        """Return (n, 3, S, S) of frames of one size."""
        # channels-last strides choose the kernel that rounds like Pillow, which training uses
        planes = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
        scaled = torch.nn.functional.interpolate(planes, (size, size), mode="bilinear", antialias=True).float()
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.image_mean, self.image_std))
        return scaled * (1 / (255 * std)) - mean / std


def rgb(image: Any) -> np.ndarray:
    """Return an image as (H, W, 3) uint8, upright, without alpha."""
    if isinstance(image, Image.Image):
        with contextlib.suppress(ValueError):  # an orientation that nobody can read
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return np.array(image.convert("RGB"))
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.shape[2] != 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f"expected an image of uint8 with shape (H, W), (H, W, 3) or (3, H, W), got {pixels.dtype} with "
            f"{pixels.shape}; give values from 0 to 255, not normalized"
        )
    return np.ascontiguousarray(pixels)
