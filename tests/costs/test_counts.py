from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sclds.batch import SampleViews, grids_of, pack, recipe_of
from sclds.config import Config
from sclds.config.reading import load_config
from sclds.costs.counts import Kind, packed_forward, pairs_of, parameter_counts, published_forward, views_of
from sclds.model import flops
from sclds.model.scl import SCLModel

CONFIGS = Path(__file__).parents[2] / "configs"
VOCABULARY = 50265


@pytest.fixture
def base() -> Config:
    return load_config(CONFIGS / "pretrain" / "scl_base_mixed.yaml")


def with_losses(config: Config, **weights: float | str) -> Config:
    return config.model_copy(update={"losses": config.losses.model_copy(update=weights)})


@pytest.mark.parametrize(("kind", "most", "published"), [("image", 185e9, 426e9), ("video", 440e9, 941e9)])
def test_flops_at_base_size(base: Config, kind: Kind, most: float, published: float) -> None:
    """The packed step and the published schedule at 12 text tokens, 288 px, and 4 frames of 224 px."""
    assert sum(packed_forward(base, kind, 12, VOCABULARY).values()) <= most
    assert sum(published_forward(base, kind, VOCABULARY).values()) == pytest.approx(published, rel=2e-3)


@pytest.mark.parametrize(("kind", "most", "fewer"), [("image", 145e9, 2.9), ("video", 348e9, 2.7)])
def test_flops_of_the_economy_mode(base: Config, kind: Kind, most: float, fewer: float) -> None:
    """One masked text for MLM and MLSC saves a text view and a fusion pair."""
    economy = sum(packed_forward(with_losses(base, mlm_view="t2"), kind, 12, VOCABULARY).values())
    assert economy <= most
    assert sum(published_forward(base, kind, VOCABULARY).values()) >= fewer * economy


def test_one_linear_map_by_hand(base: Config) -> None:
    views = views_of(base, "image", 12)
    assert views.vision("v0") == 18 * 18 + 1
    assert views.vision("v1") == int(324 * (1 - 0.8)) + 1
    assert views.predicted == 2
    assert views.completed == 5
    text, vision = 3 * 12, 325 + 65
    assert packed_forward(base, "image", 12, VOCABULARY)["transforms"] == 2 * (text + vision) * 768 * 768


def test_switched_off_losses_cost_nothing(base: Config) -> None:
    only = with_losses(base, itm=0.0, mlm=0.0, mvsc=0.0, mlsc=0.0)
    assert packed_forward(only, "image", 12, VOCABULARY)["fusion"] == 0
    assert (
        packed_forward(only, "image", 12, VOCABULARY)["text encoder"]
        < 0.4 * (packed_forward(base, "image", 12, VOCABULARY)["text encoder"])
    )
    without = with_losses(base, mlm=0.0)
    assert set(pairs_of(without, views_of(without, "image", 12))) == {"mvsc", "mlsc", "itm"}


def test_local_completion_adds_a_view_and_a_pair(base: Config) -> None:
    local = with_losses(base, mltc_image=0.2, mltc_text=0.2)
    plain, more = (sum(packed_forward(c, "image", 12, VOCABULARY).values()) for c in (base, local))
    assert 1.3 * plain < more < 1.7 * plain


def test_text_of_no_word(base: Config) -> None:
    assert packed_forward(base, "image", 2, VOCABULARY)["heads"] > 0


def test_parameters_of_base_are_those_of_its_parts(base: Config) -> None:
    found = parameter_counts(base, VOCABULARY)
    assert found["text encoder"] == 124_055_040  # RoBERTa-base without its pooler
    assert 350e6 < sum(found.values()) < 370e6


def view_of(kind: str, frames: int, row: int, grid: int, mlm_view: str) -> SampleViews:
    text, inner = np.arange(12) + 5, np.arange(1, 3 if mlm_view == "t1" else 6)
    return SampleViews(
        dropout_key=row,
        sample_id=str(row),
        caption="",
        kind=kind,
        frames=frames,
        grid=grid,
        text=text,
        text_mlm=text,
        mlm_positions=inner,
        mlm_labels=text[inner],
        text_scl=text,
        scl_positions=np.arange(1, 6),
        keep=np.arange(int(grid**2 * (1 - 0.8))),
        replaced=np.arange(int(grid**2 * 0.3)),
        itm_partner=row,
    )


@pytest.mark.parametrize(
    "weights", [{}, {"mlm": 0.0}, {"mlsc": 0.0}, {"mlm_view": "t2"}, {"mltc_image": 0.2, "mltc_text": 0.2}], ids=str
)
@pytest.mark.parametrize("kind", ["image", "video"])
def test_linear_maps_of_a_real_forward(
    kind: Kind, weights: dict[str, float | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The built model runs the linear maps that are counted, and 2 % more at most: the last layer may project keys and
    values of pairs that nobody reads. Attention is left out, since backends pad differently.
    """
    # of one fusion layer the last is the whole, and what it projects for nobody 6 %
    config = with_losses(load_config(CONFIGS / "quickstart.yaml", ["model.fusion.layers=2"]), **weights)
    [grid] = grids_of(config)
    frames = 1 if kind == "image" else config.data.frames
    rows = [view_of(kind, frames, row, grid, config.losses.mlm_view) for row in range(2)]
    patches = torch.zeros(2 * frames * grid**2, 3 * config.model.vision.patch_size**2)
    batch = pack(rows, patches, replace(recipe_of(config, pad_id=1), group_size=2))
    model = SCLModel(config.model, vocab_size=1000)
    model.initialize(0)
    with FlopCounterMode(display=False) as counter:
        model(batch)
    measured = sum(v for op, v in counter.get_flop_counts()["Global"].items() if str(op) in ("aten.addmm", "aten.mm"))
    monkeypatch.setattr(flops, "attention", lambda *_: 0)
    counted = len(rows) * sum(packed_forward(config, kind, 12, 1000).values())
    assert counted <= measured <= 1.02 * counted


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("pretrain/*.yaml")), ids=lambda p: p.stem)
def test_parameters_of_the_built_model(path: Path) -> None:
    config = load_config(path)
    with torch.device("meta"):
        model = SCLModel(config.model, vocab_size=VOCABULARY)
    assert sum(p.numel() for p in model.parameters()) == sum(parameter_counts(config, VOCABULARY).values())


@pytest.mark.parametrize(("kind", "frames"), [("image", 1), ("video", 4)])
def test_every_frame_has_a_cls_that_is_read_and_counted(base: Config, kind: Kind, frames: int) -> None:
    """The frames' [CLS] are rows of every vision view, and what MVSC and its targets read."""
    views = views_of(base, kind, 12)
    assert views.vision("v0") == frames * (views.patches["v0"] + 1)
    assert views.vision("v1") == frames * (views.patches["v1"] + 1)
    pairs = pairs_of(with_losses(base, itm=0, mltc_image=0, mltc_text=0), views)
    rows = {(pair.text, pair.vision): (pair.text_rows, pair.vision_rows) for pair in pairs.values()}
    assert rows == {("t1", "v0"): (views.predicted, 0), ("t0", "v1"): (1, frames), ("t2", "v0"): (1, frames)}
    matched = pairs_of(with_losses(base, mlm=0, mvsc=0, mlsc=0, mltc_image=0, mltc_text=0), views)
    assert [(pair.text_rows, pair.vision_rows) for pair in matched.values()] == [(1, frames)]
