"""The model as Hugging Face's transformers knows it: importing this module registers it with `AutoModel`.

A folder that `sclds convert huggingface` wrote loads with

```python
import sclds.interop.huggingface
from transformers import AutoModel

model = AutoModel.from_pretrained("folder")
outputs = model(input_ids, attention_mask, pixel_values)
```

Inside runs the packed model of training, so that outputs are those of a run.
"""

import importlib.resources
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from sclds.batch import Batch, Recipe, SampleViews, pack
from sclds.batch.patches import patchify
from sclds.config import DataConfig, LossesConfig, ModelConfig
from sclds.config.errors import UserError
from sclds.interop.folder import ModelFolder
from sclds.model import scl

PAD_ID = 1
"""RoBERTa's padding id, from which positions count."""
_PAIRS = LossesConfig(contrastive=1.0, itm=1.0, mlm=0.0, mvsc=0.0, mlsc=0.0)
"""The objectives whose heads `forward` reads."""


class SCLConfig(PreTrainedConfig):
    """Architecture of a model.

    Args:
        architecture: The `model` section of a training configuration.
        pad_token_id: Padding id of the tokenizer.
    """

    model_type = "scl"

    def __init__(self, architecture: dict[str, Any] | None = None, pad_token_id: int = PAD_ID, **kwargs: Any):
        self.architecture = architecture or ModelConfig().model_dump(mode="json")
        self.pad_token_id = pad_token_id
        super().__init__(**kwargs)


@dataclass
class SCLOutput(ModelOutput):
    """What `SCLModel` returns for B pairs."""

    text_embeds: Tensor | None = None
    """(B, P) contrastive projection of the texts, not normalized."""
    vision_embeds: Tensor | None = None
    """(B, P) contrastive projection of the images or videos, not normalized."""
    itm_logits: Tensor | None = None
    """(B, 2) logits of "does not match" and "matches" for text i beside image i."""
    temperature: Tensor | None = None
    """() temperature by which contrastive similarities are divided."""


class SCLModel(PreTrainedModel):
    """Both encoders, fusion and heads behind padded inputs."""

    config_class = SCLConfig
    base_model_prefix = "scl"

    def __init__(self, config: SCLConfig):
        super().__init__(config)
        architecture = ModelConfig.model_validate(config.architecture)
        vision = architecture.vision
        self.patch = vision.patch_size
        self.scl = scl.SCLModel(architecture, architecture.text.vocab_size)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Leave weights alone: they come from a folder."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, pixel_values: Tensor | None = None
    ) -> SCLOutput:
        """Encode and fuse B pairs.

        Args:
            input_ids: (B, T) token ids, padded behind.
            attention_mask: (B, T), 1 where a token is real; without it, every token but the padding is.
            pixel_values: (B, 3, S, S) images or (B, F, 3, S, S) videos, normalized; S is a multiple of the patch.
        """
        if pixel_values is None:
            raise UserError("pixel_values is missing: this model takes pairs of texts and images or videos")
        mask = input_ids != self.config.pad_token_id if attention_mask is None else attention_mask.bool()
        grid = pixel_values.shape[-1] // self.patch
        outputs = self.scl(self._packed(input_ids, mask, pixel_values, grid))
        return SCLOutput(
            text_embeds=outputs["text_proj"],
            vision_embeds=outputs["vision_proj"],
            itm_logits=outputs["itm_logits"],
            temperature=outputs["temperature"],
        )

    def _packed(self, input_ids: Tensor, mask: Tensor, pixels: Tensor, grid: int) -> Batch:
        """Lay padded inputs out as training does, without any masked view."""
        none = np.zeros(0, np.int64)
        frames = pixels.shape[1] if pixels.ndim == 5 else 1
        views = []
        for row, (ids, real) in enumerate(zip(input_ids.cpu(), mask.cpu(), strict=True)):
            text = ids[real].numpy()
            views.append(
                SampleViews(
                    sample_id=str(row),
                    caption="",
                    kind="video" if pixels.ndim == 5 else "image",
                    frames=frames,
                    grid=grid,
                    text=text,
                    text_mlm=text,
                    mlm_positions=none,
                    mlm_labels=none,
                    text_scl=text,
                    scl_positions=none,
                    keep=none,
                    itm_partner=row,
                )
            )
        patches = patchify(pixels.reshape(-1, *pixels.shape[-3:]), self.patch).flatten(0, 1)
        model = self.scl.config
        recipe = Recipe(
            self.config.pad_token_id,
            _PAIRS,
            (grid,),
            group_size=len(views),
            fusion_layers=model.fusion.layers,
            pools_frames=model.vision.pools_frames,
        )
        return pack(views, patches, recipe).to(pixels.device)


AutoConfig.register("scl", SCLConfig)
AutoModel.register(SCLConfig, SCLModel)


def export(folder: ModelFolder, out: Path, tokenizer: str) -> None:
    """Write a folder that `AutoModel.from_pretrained` loads.

    Raises:
        UserError: If the tokenizer cannot be loaded, or has another vocabulary than the model.
    """
    words, pad_id = _tokenizer(tokenizer)
    rows = folder.config.text.vocab_size
    if len(words) > rows:
        raise UserError(f"the tokenizer {tokenizer!r} has {len(words)} entries and the model {rows}; give its own")
    architecture = folder.config.model_copy(update={"init_from": None}).model_dump(mode="json")
    model = SCLModel(SCLConfig(architecture, pad_token_id=pad_id))
    model.scl.load_state_dict(folder.weights)
    model.save_pretrained(out)
    words.save_pretrained(out)
    _image_processor(folder.config).save_pretrained(out)
    (out / "README.md").write_text(_card(folder), encoding="utf-8")


def _tokenizer(name: str) -> tuple[Any, int]:
    """Return a Hugging Face tokenizer and its padding id."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from sclds.data.tokenizer import EMBEDDED_TOKENIZER, load_tokenizer

    pad_id = load_tokenizer(name).pad_id  # also says in a sentence what is wrong with it
    if name != "embedded":
        return AutoTokenizer.from_pretrained(name, use_fast=True), pad_id
    source = importlib.resources.files("sclds.data") / "embedded" / EMBEDDED_TOKENIZER
    with importlib.resources.as_file(source) as path:
        special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
        special |= {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
        return PreTrainedTokenizerFast(tokenizer_file=str(path), **special), pad_id


def _image_processor(config: ModelConfig) -> Any:
    """Return CLIP's processor at the resolution of the position table, without its center crop."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    side = config.vision.pretrained_image_size
    fields = DataConfig.model_fields
    return CLIPImageProcessorPil(
        size={"height": side, "width": side},
        do_center_crop=False,
        image_mean=list(cast(tuple[float, ...], fields["mean"].default)),
        image_std=list(cast(tuple[float, ...], fields["std"].default)),
    )


def _card(folder: ModelFolder) -> str:
    """Return the model card."""
    vision, text, fusion = folder.config.vision, folder.config.text, folder.config.fusion
    kinds: dict[str, Any] = {
        f"vision, {vision.pretrained_image_size} px in patches of {vision.patch_size} px": vision,
        f"text, {text.vocab_size} tokens": text,
        "fusion, per stream": fusion,
    }
    rows = "\n".join(f"| {kind} | {part.width} | {part.layers} | {part.heads} |" for kind, part in kinds.items())
    parameters = sum(tensor.numel() for tensor in folder.weights.values()) / 1e6
    drawn = len(folder.origin.initialized)
    note = f"\n{drawn} parameters were not in the source and are random (seed {folder.origin.seed}).\n" if drawn else ""
    return f"""---
library_name: transformers
tags: [vision-language, semantic-completion-learning]
---

# Semantic Completion Learning

A vision-language model of {parameters:.1f} M parameters, pre-trained with Semantic Completion Learning
([arXiv 2211.13437](https://arxiv.org/abs/2211.13437)). Weights from: {folder.origin.source}.
{note}
| part | width | layers | heads |
|---|---|---|---|
{rows}

```python
import sclds.interop.huggingface
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

model = AutoModel.from_pretrained("this-folder").eval()
tokenizer = AutoTokenizer.from_pretrained("this-folder")
processor = AutoImageProcessor.from_pretrained("this-folder")
words = tokenizer(["a dog on a bench"], padding=True, return_tensors="pt")
pixels = processor(image, return_tensors="pt")["pixel_values"]
outputs = model(words["input_ids"], words["attention_mask"], pixels)
outputs.itm_logits  # (1, 2): does not match, matches
```

It inherits what its training images and captions show and leave out; check it on your own data before use.
"""
