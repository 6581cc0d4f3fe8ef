from pathlib import Path

import numpy as np
import pytest
import torch

from sclds.config import Config, load_config
from sclds.data.packing import Batch, SampleViews, grids_of, pack
from sclds.data.tokenizer import load_tokenizer
from sclds.train import pictures

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
GREY, ORANGE, BLUE = (150, 150, 150), (255, 128, 0), (0, 64, 255)


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(QUICKSTART)


def views(kind: str, frames: int, keep: list[int], text: list[int], mask_id: int) -> SampleViews:
    masked = [text[0], mask_id, *text[2:]]
    return SampleViews(
        sample_id=kind,
        caption=kind,
        kind=kind,
        frames=frames,
        grid=8,
        text=np.array(text),
        text_mlm=np.array(masked),
        mlm_positions=np.array([1]),
        mlm_labels=np.array([text[1]]),
        text_scl=np.array(masked),
        scl_positions=np.array([1]),
        keep=np.array(keep),
    )


def solid(config: Config, colour: tuple[int, int, int], frames: int) -> torch.Tensor:
    """Patches of one colour, as the decoder normalises them."""
    channels = (torch.tensor(colour) / 255 - torch.tensor(config.data.mean)) / torch.tensor(config.data.std)
    return channels.repeat_interleave(64).expand(frames * 64, -1)


def batch_of(config: Config) -> Batch:
    """A clip before a picture, so that the packed order differs from the samples' order."""
    tokenizer = load_tokenizer("embedded")
    ids, _ = tokenizer.encode("red apple", 10)
    samples = [
        views("video", 4, [0, 9], ids, tokenizer.mask_id),
        views("image", 1, [63], ids, tokenizer.mask_id),
    ]
    patches = torch.cat([solid(config, ORANGE, 4), solid(config, BLUE, 1)])
    return pack(samples, patches, pad_id=tokenizer.pad_id, losses=config.losses, grids=grids_of(config), group_size=2)


def cell(figure: np.ndarray, sample: int, column: int, patch: int) -> tuple[int, ...]:
    """Colour in the middle of a patch of a sample's complete (0) or masked (1) picture."""
    step = pictures.SIDE // 8
    top = pictures.GAP + sample * (pictures.SIDE + pictures.GAP) + patch // 8 * step + step // 2
    left = pictures.GAP + column * (pictures.SIDE + pictures.GAP) + patch % 8 * step + step // 2
    return tuple(int(v) for v in figure[top, left])


def test_kept_patches_are_shown_and_dropped_ones_grey(config: Config) -> None:
    figure = pictures.masked_inputs_figure(batch_of(config), load_tokenizer("embedded"), config)
    assert figure.dtype == np.uint8
    assert figure.shape[2] == 3
    for sample, colour, kept in ((0, ORANGE, {0, 9}), (1, BLUE, {63})):
        for patch in range(64):
            assert cell(figure, sample, 0, patch) == pytest.approx(colour, abs=1)
            assert cell(figure, sample, 1, patch) == pytest.approx(colour if patch in kept else GREY, abs=1)


def test_masked_words_are_marked(config: Config) -> None:
    batch, tokenizer = batch_of(config), load_tokenizer("embedded")
    complete, masked = (" ".join(pictures._caption(batch, tokenizer, 0, view)) for view in (0, 2))
    assert complete == "t0 complete: red apple"
    assert "[MASK]" in masked
