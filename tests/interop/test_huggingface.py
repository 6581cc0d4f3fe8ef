"""Our folders as Hugging Face folders: loaded again with plain `AutoModel`, they give the same outputs."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from sclds.cli.main import main
from sclds.interop import huggingface
from sclds.interop.folder import ModelFolder, Origin, build_model, write_folder
from tests.train.synthetic import tiny_config

WORDS = 4096


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    config = tiny_config(model={**tiny_config().model.model_dump(mode="json")}).model
    config = config.model_copy(update={"text": config.text.model_copy(update={"vocab_size": WORDS})})
    model = build_model(config, seed=1)
    write_folder(root / "ours", ModelFolder(config, model.state_dict(), Origin("test")))
    assert main(["convert", "huggingface", str(root / "ours"), str(root / "hub"), "--tokenizer", "embedded"]) == 0
    return root, config, model.eval()


def inputs(root, size=16, clip=False):
    tokenizer = AutoTokenizer.from_pretrained(root / "hub")
    words = tokenizer(["a red house", "two dogs run over a wide green field"], padding=True, return_tensors="pt")
    shape = (2, 2, 3, size, size) if clip else (2, 3, size, size)
    return words["input_ids"], words["attention_mask"], torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_it_loads_with_auto_model_and_is_the_same_model(folders):
    root, config, ours = folders
    loaded = AutoModel.from_pretrained(root / "hub").eval()
    assert isinstance(loaded, huggingface.SCLModel)
    assert AutoConfig.from_pretrained(root / "hub").architecture == config.model_dump(mode="json")
    state = loaded.scl.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in ours.state_dict().items())
    for clip in (False, True):
        ids, mask, pixels = inputs(root, clip=clip)
        with torch.no_grad():
            found = loaded(ids, mask, pixels)
            batch = loaded._packed(ids, mask.bool(), pixels, 4)
            wanted = ours(batch)
        for name, key in (("text_embeds", "text_proj"), ("vision_embeds", "vision_proj"), ("itm_logits", "itm_logits")):
            assert torch.equal(found[name], wanted[key]), name


def test_a_pair_does_not_depend_on_its_neighbors_or_padding(folders):
    root, _, _ = folders
    loaded = AutoModel.from_pretrained(root / "hub").eval()
    ids, mask, pixels = inputs(root, size=24)
    with torch.no_grad():
        both = loaded(ids, mask, pixels)
        alone = loaded(ids[:1, : int(mask[0].sum())], None, pixels[:1])
    for name in ("text_embeds", "vision_embeds", "itm_logits"):
        torch.testing.assert_close(both[name][:1], alone[name], rtol=1e-4, atol=1e-5)


def test_tokenizer_and_processor_prepare_what_training_saw(folders):
    from sclds.data.tokenizer import load_tokenizer

    root, _, _ = folders
    caption = "a red house"
    assert (
        AutoTokenizer.from_pretrained(root / "hub")(caption)["input_ids"]
        == load_tokenizer("embedded").encode(caption, 50)[0]
    )
    processor = AutoImageProcessor.from_pretrained(root / "hub", backend="pil")
    pixels = processor(np.full((20, 30, 3), 128, np.uint8), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 16, 16)
    assert float(pixels[0, 0, 0, 0]) == pytest.approx((128 / 255 - 0.48145466) / 0.26862954, rel=1e-4)
    assert "arxiv.org/abs/2211.13437" in (root / "hub" / "README.md").read_text()


def test_pictures_are_needed_and_the_tokenizer_has_to_fit(folders, tmp_path, capsys):
    root, _, _ = folders
    with pytest.raises(ValueError, match="pixel_values is missing"):
        AutoModel.from_pretrained(root / "hub")(torch.zeros(1, 3, dtype=torch.long))
    small = tiny_config().model
    write_folder(tmp_path / "small", ModelFolder(small, build_model(small).state_dict(), Origin("test")))
    assert (
        main(["convert", "huggingface", str(tmp_path / "small"), str(tmp_path / "x"), "--tokenizer", "embedded"]) == 2
    )
    assert "give its own" in capsys.readouterr().err
