"""CONTRIBUTING's recipe for an objective, followed in a temporary copy of the table: nothing else has to know it."""

import pytest
import torch

from sclds.config import LossesConfig
from sclds.costs.counts import Views, pairs_of
from sclds.evaluation.losses import loss_titles
from sclds.objectives import OBJECTIVES, Objective, Output, Read, table
from sclds.reference.published_schedule import encode_text, encode_vision, fuse_pair, nce, pad_batch
from tests.model.samples import LONGEST, PAD, assert_equal, gradients, model_of, packed, pixels, sample

ROW = Objective(
    "words_agree",
    "Masked texts agree",
    loss="nce",
    count="samples",
    compared=(
        Output("words_recovered", Read("mlm", "text", "cls")),
        Output("words_target", Read("mlsc", "text", "cls"), detached=True),
    ),
)
"""Place 2: the row. The [CLS] of (t1, v0) is to find that of (t2, v0)."""
OFF = dict.fromkeys((objective.name for objective in OBJECTIVES), 0.0)


class Losses(LossesConfig):
    """Place 1: the weight."""

    words_agree: float = 0.0


@pytest.fixture(autouse=True)
def _longer_table(monkeypatch):
    monkeypatch.setattr(table, "OBJECTIVES", (*OBJECTIVES, ROW))


def plain(model, views, losses):
    """Place 3: the plain definition."""
    batch = pad_batch(views, pixels(views), PAD, LONGEST)
    vision = encode_vision(model, batch, "v0")
    recovered, target = (fuse_pair(model, encode_text(model, batch, view), vision)[0][:, 0] for view in ("t1", "t2"))
    value = nce(recovered, target.detach(), losses.completion_temperature)
    total = losses.words_agree * value
    terms = {"words_agree": value.detach(), "total": total.detach()}
    return terms, gradients(model, total)


def test_packing_heads_and_losses_follow_the_table():
    views = [sample(0, partner=1), sample(1, "video", 3, partner=0), sample(2, inner=9, words=2)]
    model, losses = model_of(), Losses(**OFF, words_agree=0.7)
    assert_equal(packed(model, views, losses), plain(model, views, losses))


def test_beside_the_others_it_leaves_them_alone():
    views = [sample(i, partner=(i + 1) % 3) for i in range(3)]
    model = model_of()
    terms, _ = packed(model, views, Losses(words_agree=0.7))
    wanted, _ = packed(model, views, Losses())
    for name in wanted.keys() - {"total"}:
        torch.testing.assert_close(terms[name], wanted[name])
    torch.testing.assert_close(terms["total"], wanted["total"] + 0.7 * terms["words_agree"])


def test_costs_and_pages_follow_the_table():
    config = type("Config", (), {"losses": Losses(**OFF, words_agree=1.0), "masking": LossesMasking()})
    pairs = pairs_of(config, Views(frames=1, text=9, patches={"v0": 16, "v1": 3, "v2": 16}, predicted=2, completed=3))
    assert {name: pair.text_rows for name, pair in pairs.items()} == {"mlm": 1, "mlsc": 1}
    assert loss_titles()["words_agree"] == "Masked texts agree"


class LossesMasking:
    """What counting reads of the masking section."""

    mltc_vision_ratio = 0.3
