import html
import re
from dataclasses import replace

import markdown
import pytest
import torch

from sclds.batch.unpacking import GREY
from sclds.data.tokenizer import load_tokenizer
from sclds.report.pictures import code, masked_inputs
from tests.train.synthetic import MAKE_UPS, batch_of, tiny_config


def test_pictures_and_clips_show_just_what_v1_keeps():
    config = tiny_config(data={"mean": (0, 0, 0), "std": (1, 1, 1)}, losses={"mltc_image": 0.2})
    batch = batch_of(config, 0, range(16), *MAKE_UPS["mixed"])
    patches = batch.vision.patches.abs().clamp(0.6, 0.9)
    batch = replace(batch, vision=replace(batch.vision, patches=patches))
    shown = {one.name: one for one in masked_inputs(batch, config, load_tokenizer("embedded"))}
    assert list(shown) == ["image_0", "image_1", "video_0", "video_1"]
    for name, (side, frames, kept) in {"image_1": (16, 1, 3), "video_1": (8, 2, 1)}.items():
        picture = shown[name].picture
        assert picture.shape == (3, 2 * side, side * frames)
        whole, masked = picture[:, :side], picture[:, side:]
        visible = masked != GREY
        assert int(visible.sum()) == 3 * 16 * kept * frames
        assert torch.equal(whole[visible], masked[visible])
        assert not (whole == GREY).any()


def test_views_that_no_objective_reads_are_not_shown():
    config = tiny_config(losses={"mvsc": 0, "mlsc": 0})
    batch = batch_of(config, 0, range(16), *MAKE_UPS["mixed"])
    shown = masked_inputs(batch, config, load_tokenizer("embedded"))
    assert shown[0].picture.shape == (3, 16, 16)
    assert "MLM:" in shown[0].text
    assert "SCL:" not in shown[0].text


def test_texts_show_both_maskings():
    config = tiny_config()
    batch = batch_of(config, 0, range(16), *MAKE_UPS["mixed"])
    for shown in masked_inputs(batch, config, load_tokenizer("embedded")):
        assert all(part in shown.text for part in ("caption:", "MLM:", "SCL:"))


@pytest.mark.parametrize("caption", ["![x](http://a/b)", "a ` b `` c", "`![x](y)`", "a\n\n<script>x</script>"])
def test_a_caption_is_shown_as_it_is(caption):
    """TensorBoard makes HTML of the Markdown; nothing of a caption may become an element of it."""
    shown = markdown.markdown(f"caption: {code(caption)}")
    assert re.findall(r"<(\w+)", shown) == ["p", "code"]
    assert html.unescape(re.sub(r"<[^>]+>", "", shown)) == " ".join(f"caption: {caption}".split())
