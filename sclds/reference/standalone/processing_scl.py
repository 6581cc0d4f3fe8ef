# SPDX-License-Identifier: Apache-2.0
"""Texts, images and videos to what `SCLModel` takes."""

from typing import Any

from transformers import BatchFeature, ProcessorMixin

from .captions_scl import clean_caption


class SCLProcessor(ProcessorMixin):
    """The image processor and the tokenizer of a folder.

    Args:
        image_processor: Of the folder.
        tokenizer: Of the folder; cuts texts to its `model_max_length`.
        kwargs: What transformers adds.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any):
        super().__init__(image_processor, tokenizer, **kwargs)

    def __call__(
        self, text: Any = None, images: Any = None, videos: Any = None, return_tensors: str = "pt", **unused: Any
    ) -> BatchFeature:
        """Return `input_ids` and `attention_mask` of texts, `pixel_values` of images, `pixel_values_videos` of videos.

        Args:
            text: One or several.
            images: One or several, as the image processor takes them.
            videos: One or several, as the image processor takes them.
            return_tensors: `pt`, or `np`.
            unused: What a pipeline may add.
        """
        found: dict[str, Any] = {}
        if text is not None:
            cleaned = [clean_caption(one) for one in ([text] if isinstance(text, str) else text)]
            words = self.tokenizer(cleaned, padding=True, truncation=True, return_tensors=return_tensors)
            found |= {"input_ids": words["input_ids"], "attention_mask": words["attention_mask"]}
        if images is not None or videos is not None:
            found |= self.image_processor(images, videos, return_tensors=return_tensors)
        return BatchFeature(found)
