"""The checkpoint at which a held-out figure was best."""

import json

from sclds.run.checkpoints import STATE_FILE, checkpoint_name
from sclds.train.best import BestCheckpoint
from tests.train.test_checkpoint import save


class Group:
    def __init__(self, rank=0):
        self.rank = rank

    def any(self, *flags):
        return list(flags)


LOSS, RECALL = "heldout/a/total", "heldout/a/text_to_vision_r10"


def best(figure, lines=(), folder=None):
    return BestCheckpoint(figure, Group(), lines, folder)


def test_lower_losses_and_higher_recalls_are_better_and_of_equal_ones_the_first():
    losses = best(LOSS)
    assert [losses.improved(step, {LOSS: value}) for step, value in enumerate([3.0, 2.0, 2.0, 4.0, 1.0])] == [
        *(True, True, False, False, True)
    ]
    assert losses.best_step() == 4
    recalls = best(RECALL)
    assert [recalls.improved(step, {RECALL: value}) for step, value in enumerate([0.1, 0.3, 0.2])] == [
        True,
        True,
        False,
    ]


def test_what_is_not_a_number_is_never_better():
    losses = best(LOSS)
    assert not losses.improved(1, {LOSS: float("nan")})
    assert losses.improved(2, {LOSS: 5.0})
    assert not losses.improved(3, {LOSS: float("nan")})
    assert not losses.improved(4, {})


def test_a_resumed_run_knows_its_best_as_far_as_it_is_still_there(tmp_path):
    for step in (3, 6):
        folder = tmp_path / checkpoint_name(step)
        folder.mkdir()
        (folder / STATE_FILE).write_text(json.dumps({"step": step, "world_size": 1, "config": {}}))
    lines = [{"step": step, LOSS: value} for step, value in ((3, 2.0), (4, 1.0), (6, 3.0))]
    found = best(LOSS, lines, tmp_path)
    assert found.best_step() == 3, "of step 4 there is no checkpoint"
    assert not found.improved(9, {LOSS: 2.5})
    assert best(None, lines, tmp_path).best_step() is None


def test_the_best_checkpoint_is_never_rotated_away(tmp_path):
    for step in (5, 10, 15, 20):
        save(tmp_path, step, keep=2, best=5)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == [checkpoint_name(step) for step in (5, 15, 20)]
    assert (tmp_path / "best").read_text() == checkpoint_name(5)
    save(tmp_path, 25, keep=2, best=25)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == [checkpoint_name(step) for step in (20, 25)]
