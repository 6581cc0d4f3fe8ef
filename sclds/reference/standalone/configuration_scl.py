# SPDX-License-Identifier: Apache-2.0
"""The configuration of an exported model."""

from typing import Any

from transformers import PreTrainedConfig


class SCLConfig(PreTrainedConfig):
    """Architecture of a model of Semantic Completion Learning.

    Args:
        architecture: The `model` section of the training configuration, every value given.
        pad_token_id: Padding id of the tokenizer, from which positions count.
    """

    model_type = "scl"

    def __init__(self, architecture: dict[str, Any] | None = None, pad_token_id: int = 1, **kwargs: Any):
        self.architecture = architecture or {}
        self.pad_token_id = pad_token_id
        super().__init__(**kwargs)
