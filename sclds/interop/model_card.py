"""The model card of an exported folder: what the model is, its license, its data, its results, how it is loaded."""

from typing import Any

from sclds.interop.folder import ModelFolder

_RECALLS = {"r1": "R@1", "r5": "R@5", "r10": "R@10"}
_DIRECTIONS = {"text_to_vision": "text to {}", "vision_to_text": "{} to text"}


def model_card(folder: ModelFolder, license_id: str | None = None) -> str:
    """Return the content of README.md.

    Args:
        folder: What was exported.
        license_id: License of the weights as the hub names it; without one the card says that nobody has chosen it.
    """
    from huggingface_hub import ModelCardData

    origin = folder.origin
    data = ModelCardData(
        license=license_id or "other",
        license_name=None if license_id else "not-chosen",
        license_link=None if license_id else "README.md#license",
        library_name="transformers",
        pipeline_tag="feature-extraction",
        tags=["vision-language", "image-text-retrieval", "video-text-retrieval", "semantic-completion-learning"],
        model_name=origin.source if origin.results else None,
        eval_results=_evaluation(folder) or None,
    )
    drawn = len(origin.initialized)
    note = f"{drawn} parameters were not in the source and are random (seed {origin.seed}).\n\n" if drawn else ""
    parameters = sum(tensor.numel() for tensor in folder.weights.values()) / 1e6
    return (
        f"---\n{data.to_yaml()}\n---\n\n# Semantic Completion Learning\n\n"
        f"A vision-language model of {parameters:.1f} M parameters with the architecture of Semantic Completion\n"
        f"Learning ([arXiv 2211.13437](https://arxiv.org/abs/2211.13437)). Weights from: {origin.source}.\n\n{note}"
        f"{_architecture(folder)}\n{_USE}\n{_data(folder)}\n{_results(folder)}\n{_license(license_id)}"
    )


def _architecture(folder: ModelFolder) -> str:
    vision, text, fusion = folder.config.vision, folder.config.text, folder.config.fusion
    kinds: dict[str, Any] = {
        f"vision ({vision.type}), {vision.pretrained_image_size} px in patches of {vision.patch_size} px": vision,
        f"text ({text.type}), {text.vocab_size} tokens": text,
        "fusion, per stream": fusion,
    }
    rows = "\n".join(f"| {kind} | {part.width} | {part.layers} | {part.heads} |" for kind, part in kinds.items())
    return f"| part | width | layers | heads |\n|---|---|---|---|\n{rows}\n"


_USE = """## Use

```python
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("this-folder", trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained("this-folder", trust_remote_code=True)
outputs = model(**processor(text=["a dog on a bench"], images=[image]))
outputs.itm_logits  # (1, 2): does not match, matches
```

`get_text_features`, `get_image_features` and `get_video_features` return (N, P) features that are not normalized; their
cosine is what retrieval ranks by. Videos are frames in order, `processor(videos=[frames])`. It needs PyTorch,
transformers 5 and Pillow; the code that `trust_remote_code` runs lies in this folder.
"""


def _data(folder: ModelFolder) -> str:
    data, shown = folder.origin.training_data, folder.preprocessing
    named = ", ".join(data) if data else "not recorded here; see the source of the weights"
    lines = f"## Training data\n\n{named[:1].upper()}{named[1:]}.\n"
    if shown is not None:
        lines += (
            f"\nImages of {shown.image_size} px, videos of {shown.frames} frames of {shown.video_size} px, texts of at "
            f"most {shown.max_text_tokens} tokens; channels normalized by mean {list(shown.mean)} and deviation "
            f"{list(shown.std)}.\n"
        )
    return lines + "It inherits what its data shows and leaves out; check it on your own data before use.\n"


def _results(folder: ModelFolder) -> str:
    rows = [
        f"| {_DIRECTIONS[direction].format(kind)} | {' | '.join(f'{row[key]:.3f}' for key in _RECALLS)} | {row['n']} |"
        for kind, directions in folder.origin.results.items()
        for direction, row in directions.items()
    ]
    if not rows:
        return "## Results\n\nNone were recorded with these weights.\n"
    table = "\n".join(["| retrieval | R@1 | R@5 | R@10 | candidates |", "|---|---|---|---|---|", *rows])
    return f"## Results\n\nZero-shot, on held-out pairs of the run.\n\n{table}\n"


def _evaluation(folder: ModelFolder) -> list[Any]:
    """Return the results as the hub's metadata has them."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=f"{kind}-text-retrieval",
            dataset_type="held-out",
            dataset_name=f"held-out {kind}s of the run",
            metric_type=key,
            metric_name=f"{_DIRECTIONS[direction].format(kind)} {name}",
            metric_value=float(row[key]),
        )
        for kind, directions in folder.origin.results.items()
        for direction, row in directions.items()
        for key, name in _RECALLS.items()
    ]


def _license(license_id: str | None) -> str:
    weights = license_id or "not chosen yet by whoever trained them"
    return (
        f"## License\n\nWeights: {weights}. Code in this folder: Apache 2.0. The training data and the encoders that "
        f"the weights started from have terms of their own.\n"
    )
