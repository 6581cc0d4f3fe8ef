"""The table of objectives is whole: every row has its setting, its place in the method's page, and pairs that exist."""

from pathlib import Path

import pytest

from sclds.config import LossesConfig
from sclds.objectives import OBJECTIVES, PAIRS, objectives_in_use, pairs_in_use, view_names
from sclds.objectives.pairs import pairs_read

WEIGHTS = [name for name, field in LossesConfig.model_fields.items() if field.annotation is float]
NONE = dict.fromkeys((objective.name for objective in OBJECTIVES), 0.0)


def test_every_row_has_a_weight_and_every_weight_a_row():
    weights = {name for name in WEIGHTS if not name.endswith("temperature")}
    assert {objective.name for objective in OBJECTIVES} == weights


def test_every_row_stands_in_the_methods_page():
    page = (Path(__file__).parents[2] / "docs" / "method.md").read_text()
    assert [o.name for o in OBJECTIVES if f"`{o.name}`" not in page and f"| {o.name} " not in page] == []


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)
def test_each_row_alone_packs_just_its_pairs(objective):
    in_use = objectives_in_use(LossesConfig(**NONE | {objective.name: 1.0}))
    assert in_use == (objective,)
    assert {pair.name for pair in pairs_in_use(in_use)} == {read.pair for read in objective.reads}
    assert (objective.compared is None) == (objective.loss == "cross_entropy")
    assert (objective.head is None) == (objective.loss != "cross_entropy")


@pytest.mark.parametrize("left", range(2 ** len(OBJECTIVES)))
def test_pairs_that_are_read_are_neighbors(left):
    """The last fusion layer of either stream works on one contiguous range, whatever is in use."""
    weights = {o.name: float(left >> i & 1) for i, o in enumerate(OBJECTIVES)}
    in_use = objectives_in_use(LossesConfig(**weights))
    names = [pair.name for pair in pairs_in_use(in_use)]
    for stream in ("text", "vision"):
        places = [names.index(name) for name in pairs_read(in_use, stream)]
        assert places == list(range(places[0], places[0] + len(places))) if places else True


def test_economy_reads_masked_words_off_the_pair_of_completion():
    in_use = objectives_in_use(LossesConfig(mlm_view="t2"))
    assert [pair.name for pair in pairs_in_use(in_use)] == ["mvsc", "mlsc", "itm"]
    assert view_names(in_use) == (("t0", "t2"), ("v0", "v1"))


def test_pairs_show_views_of_the_method():
    assert {pair.text for pair in PAIRS} == {"t0", "t1", "t2"}
    assert {pair.vision for pair in PAIRS} == {"v0", "v1", "v2"}
