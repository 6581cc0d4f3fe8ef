"""What somebody does with an exported folder where this package is not installed: `python -I elsewhere.py FOLDER DATA`.

DATA holds `images.json` and `videos.json`, lists of {"file", "caption"}: image files, and arrays of frames. Features,
logits and what was loaded go to `found.npz` and `found.json` in it. Importing `sclds` or `scl_kernels` fails.
"""

import json
import sys
from pathlib import Path


class Refuse:
    """A finder before all others, to which these packages do not exist."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in ("sclds", "scl_kernels", "deepspeed", "nvidia", "omegaconf", "pydantic"):
            raise ModuleNotFoundError(f"No module named {name!r}: refused")


sys.meta_path.insert(0, Refuse)


def main():
    import numpy as np
    import torch
    from PIL import Image
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, AutoTokenizer

    folder, data = Path(sys.argv[1]), Path(sys.argv[2])
    trusted = {"trust_remote_code": True}
    model = AutoModel.from_pretrained(folder, **trusted).eval()
    processor = AutoProcessor.from_pretrained(folder, **trusted)
    images, tokenizer = AutoImageProcessor.from_pretrained(folder, **trusted), AutoTokenizer.from_pretrained(folder)
    kind = AutoConfig.from_pretrained(folder, **trusted).model_type
    found = {}
    for name in ("images", "videos"):
        rows = json.loads((data / f"{name}.json").read_text(encoding="utf-8"))
        captions = [row["caption"] for row in rows]
        if name == "images":
            shown = {"images": [Image.open(data / row["file"]) for row in rows]}
        else:
            shown = {"videos": [np.load(data / row["file"]) for row in rows]}
        inputs = processor(text=captions, **shown)
        with torch.no_grad():
            outputs = model(**inputs)
            alone = inputs.pop("pixel_values", None)
            vision = (
                model.get_video_features(inputs["pixel_values_videos"])
                if alone is None
                else model.get_image_features(alone)
            )
            text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
        found |= {f"{name}_text": text, f"{name}_vision": vision, f"{name}_itm": outputs.itm_logits}
        found |= {f"{name}_text_of_pairs": outputs.text_embeds, f"{name}_vision_of_pairs": outputs.vision_embeds}
        found[f"{name}_ids"] = inputs["input_ids"]
        if alone is not None:
            assert torch.equal(images(shown["images"])["pixel_values"], alone)
            assert torch.equal(images(np.asarray(shown["images"][0].convert("RGB")))["pixel_values"], alone[:1])
    cut = tokenizer("word " * 600, truncation=True)["input_ids"]
    np.savez(data / "found.npz", **{name: tensor.numpy() for name, tensor in found.items()})
    told = {"kind": kind, "longest": len(cut), "push": all(hasattr(x, "push_to_hub") for x in (model, processor))}
    (data / "found.json").write_text(
        json.dumps(told | {"loaded": sorted(name.split(".")[0] for name in sys.modules)}), encoding="utf-8"
    )


main()
