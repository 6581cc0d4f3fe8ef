import pytest

from sclds.run.health import Health, health_of


def line(step, value, level=9.7, term="contrastive"):
    return {"step": step, "loss": {term: value}, "levels": {term: level}}


def test_a_loss_that_stays_is_said_once_with_where_it_stayed():
    health = Health(steps=100, share=0.2)
    told = [stuck for step in range(5, 55, 5) for stuck in health.add(line(step, 9.69))]
    assert [(one.term, one.first, one.last) for one in told] == [("contrastive", 5, 25)]
    assert health.stuck["contrastive"].last == 50
    said = told[0].sentence("Contrastive")
    assert said.startswith(
        "Contrastive stayed at what guessing gives (9.7) from step 5 to 25; usual causes: the learning"
    )


def test_a_loss_above_its_level_is_no_better_than_one_at_it():
    assert health_of([line(step, 12.0) for step in (1, 50)], 100, 0.2).stuck


@pytest.mark.parametrize(
    "values", [[9.7, 9.4, 9.7, 9.4], [9.7, 9.7, 9.4, 9.4], [9.7, None, 9.7, 9.7], [float("nan")] * 4]
)
def test_a_loss_that_comes_down_in_between_is_not_stuck(values):
    lines = [line(25 * place, value) for place, value in enumerate(values)]
    assert not health_of(lines, 100, 0.4).stuck


def test_a_share_of_0_says_nothing_and_lines_without_levels_neither():
    assert not health_of([line(step, 9.7) for step in (1, 99)], 100, 0).stuck
    assert not health_of([{"step": step, "loss": {"contrastive": 9.7}} for step in (1, 99)], 100, 0.1).stuck
