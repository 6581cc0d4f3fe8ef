from pathlib import Path

import pytest

from sclds.config import Config, load_config
from sclds.profiling.counts import packed_forward, pairs_of, parameter_counts, published_forward, views_of

CONFIGS = Path(__file__).parents[2] / "configs"
VOCABULARY = 50265


@pytest.fixture
def base() -> Config:
    return load_config(CONFIGS / "pretrain" / "scl_base_mixed.yaml")


def with_losses(config: Config, **weights: float) -> Config:
    return config.model_copy(update={"losses": config.losses.model_copy(update=weights)})


@pytest.mark.parametrize(("kind", "most", "published"), [("image", 185e9, 426e9), ("video", 440e9, 941e9)])
def test_flops_at_base_size(base: Config, kind: str, most: float, published: float) -> None:
    """The packed step and the published schedule at 12 text tokens, 288 px, and 4 frames of 224 px."""
    assert sum(packed_forward(base, kind, 12, VOCABULARY).values()) <= most
    assert sum(published_forward(base, kind, VOCABULARY).values()) == pytest.approx(published, rel=2e-3)


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
    without = with_losses(base, mlm=0.0)
    assert set(pairs_of(without, views_of(without, "image", 12))) == {"mvsc", "mlsc", "itm"}


def test_local_completion_adds_a_view_and_a_pair(base: Config) -> None:
    local = with_losses(base, mltc_image=0.2, mltc_text=0.2)
    plain, more = (sum(packed_forward(c, "image", 12, VOCABULARY).values()) for c in (base, local))
    assert 1.3 * plain < more < 1.7 * plain


def test_text_of_no_word(base: Config) -> None:
    assert packed_forward(base, "image", 2, VOCABULARY)["heads"] > 0


def test_parameters_of_base_are_those_of_its_parts(base: Config) -> None:
    counts = parameter_counts(base, VOCABULARY)
    assert counts["text encoder"] == 124_055_040  # RoBERTa-base without its pooler
    assert 350e6 < sum(counts.values()) < 370e6
