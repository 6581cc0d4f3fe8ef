"""The level of an objective is what its loss is when all candidates look alike: computed, and as the losses give it."""

import math
from dataclasses import replace

import pytest
import torch

from sclds.losses.communicator import SingleProcess
from sclds.losses.makeup import makeup_of
from sclds.losses.objectives import GlobalFeatures, features_of, step_loss
from sclds.model.scl import SCLModel
from sclds.objectives import OBJECTIVES, objectives_in_use
from sclds.objectives.levels import Makeup, trivial_level
from tests.train.synthetic import FRAMES, MAKE_UPS, VOCABULARY, batch_of, tiny_config

BY_NAME = {objective.name: objective for objective in OBJECTIVES}
LOSSES = {"mltc_image": 0.2, "mltc_text": 0.2, "sigmoid": 0.5}


@pytest.mark.parametrize("make_up", ["mixed", "pictures_beside_clips"])
def test_losses_over_rows_that_are_all_alike_are_the_levels(make_up):
    config = tiny_config(losses=LOSSES)
    batch = batch_of(config, 0, range(16), *MAKE_UPS[make_up])
    model = SCLModel(config.model, VOCABULARY, sigmoid=True)
    model.initialize(0)
    with torch.no_grad():
        outputs = dict(model(batch))
    compared = {output.name for one in OBJECTIVES for output in one.compared or ()}
    alike = {name: torch.ones_like(value) if name in compared else value for name, value in outputs.items()}
    alike["itm_logits"] = torch.zeros_like(outputs["itm_logits"])
    # SigLIP's best constant: every one of the pairs is taken for a match with the share that are
    alike |= {
        "pairwise_scale": torch.tensor(1e-9),
        "pairwise_bias": torch.tensor(-math.log(len(batch.samples.ids) - 1)),
    }
    features = GlobalFeatures.gather([features_of(alike, batch)], [batch], config.losses, SingleProcess())
    _, terms = step_loss(alike, batch, features, 0, config.losses)
    makeup = makeup_of(batch, FRAMES)
    for objective in objectives_in_use(config.losses):
        if objective.name != "mlm":
            level = trivial_level(objective, [makeup])
            assert float(terms[objective.name]) == pytest.approx(level, rel=1e-4), objective.name


def test_levels_of_known_sizes():
    pictures = Makeup(0, 0, 0, (128, 0))
    assert trivial_level(BY_NAME["contrastive"], [pictures]) == pytest.approx(2 * math.log(128))
    assert trivial_level(BY_NAME["itm"], [pictures]) == pytest.approx(0.6931, abs=1e-4)
    assert trivial_level(BY_NAME["mltc_text"], [pictures]) is None, "nothing is compared"
    assert trivial_level(BY_NAME["mlm"], [pictures], 5.5) == 5.5
    # frame 0 competes with all 128, frame 1 with the other 32 videos alone
    mixed = Makeup(0, 0, 0, (96, 32))
    expected = (96 * 2 * math.log(128) + 32 * (math.log(128) + math.log(32))) / 128
    assert trivial_level(BY_NAME["mvsc"], [mixed]) == pytest.approx(expected)


def test_parts_of_a_step_that_do_not_compete_have_the_level_of_each():
    """`losses.negatives: micro_batch` under accumulation."""
    parts = [Makeup(0, 0, 0, (64, 0)), Makeup(0, 0, 0, (64, 0))]
    assert trivial_level(BY_NAME["contrastive"], parts) == pytest.approx(2 * math.log(64))


def test_counts_of_several_processes_add_up():
    config = tiny_config(losses=LOSSES)
    whole = makeup_of(batch_of(config, 0, range(16), *MAKE_UPS["mixed"]), FRAMES)
    halves = [makeup_of(batch_of(config, 0, rows, *MAKE_UPS["mixed"]), FRAMES) for rows in (range(8), range(8, 16))]
    added = [sum(numbers) for numbers in zip(*(half.numbers() for half in halves), strict=True)]
    assert replace(Makeup.of_numbers(added)) == whole


@pytest.mark.parametrize(("count", "level"), [(1, 0.0), (2, 2 * math.log(2)), (3, math.log(3) + 2 * math.log(3 / 2))])
def test_the_sigmoids_level_of_few_samples(count, level):
    """The best constant says of each of n² pairs that it matches with chance 1 / n."""
    assert trivial_level(BY_NAME["sigmoid"], [Makeup(0, 0, 0, (count,))]) == pytest.approx(level)
    if count > 1:
        chance = 1 / count
        assert level == pytest.approx(-math.log(chance) - (count - 1) * math.log(1 - chance))


def test_one_sample_alone_has_nothing_to_be_taken_for():
    assert trivial_level(BY_NAME["contrastive"], [Makeup(0, 0, 0, (1,))]) == 0
