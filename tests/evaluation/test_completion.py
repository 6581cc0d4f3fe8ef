"""Ranks of recovered features, by hand."""

import pytest
import torch

from sclds.evaluation.completion import Gain, completion, wrong_partners

COMPLETE = torch.eye(4)[:, None]
NEAR = {  # of sample 0, nearest first: 0, 1, 2, 3
    "first": [[4.0, 3.0, 2.0, 1.0]],
    "second": [[3.0, 4.0, 2.0, 1.0]],
    "last": [[-1.0, 3.0, 2.0, 1.0]],
    "tie": [[4.0, 4.0, 2.0, 1.0]],
}


def recovered(*names):
    """Return (N, 1, 4) features of samples 0, 1 …, whose own complete feature has the place that `names` say."""
    return torch.stack([torch.tensor(NEAR[name]).roll(row, 1) for row, name in enumerate(names)])


def ranked(own, wrong, none, identity=(0, 1, 2, 3), has_wrong=(True,) * 4):
    features = {"own": recovered(*own), "wrong": recovered(*wrong), "none": recovered(*none)}
    return completion(features, COMPLETE, torch.tensor(identity), torch.tensor(has_wrong), 3)


def test_ranks_gains_and_what_is_found():
    own, wrong = ("first", "second", "first", "tie"), ("second", "first", "first", "last")
    done = ranked(own, wrong, own, has_wrong=(True, True, True, False))
    assert done.ranks["own"].tolist() == [1, 2, 1, 2]
    assert done.ranks["wrong"].tolist() == [2, 1, 1, 0], "a sample without a wrong partner is not compared"
    assert done.gain("wrong") == Gain(1, 1, 1)
    assert done.gain("none") == Gain(0, 4, 0)
    assert (done.recall("own", 1), done.recall("own", 2), done.median("own")) == (0.5, 1.0, 1.5)
    assert done.recall("wrong", 1) == pytest.approx(2 / 3)
    assert done.found["own"].tolist()[:2] == [[0, 1, 2], [2, 1, 3]]


def test_a_repetition_is_as_right_as_the_sample_itself():
    done = ranked(*[("second", "first", "first", "last")] * 3, identity=(7, 7, 2, 3))
    assert done.ranks["own"].tolist() == [1, 1, 1, 4]


def test_of_a_video_the_mean_cosine_of_its_frames_counts():
    """Whatever the lengths of features: a long frame weighs no more than a short one."""
    complete = torch.tensor([[[1.0, 0], [7, 0]], [[0, 1], [0, 7]], [[1, 0], [0, 7]]])
    rows = torch.tensor([[[1.0, 0], [60, 80]]]).expand(3, -1, -1)
    done = completion(dict.fromkeys(("own", "wrong", "none"), rows), complete, torch.arange(3), torch.ones(3) > 0, 3)
    # cosines by frame: (1, 0.6), (0, 0.8), (1, 0.8)
    assert done.ranks["own"].tolist() == [2, 3, 1]


def test_what_is_no_number_is_found_last():
    done = completion(
        dict.fromkeys(("own", "wrong", "none"), torch.full((4, 1, 4), torch.nan)),
        *(COMPLETE, torch.arange(4), torch.ones(4) > 0, 2),
    )
    assert done.recall("own", 4) == 0


def test_wrong_partners_say_and_show_something_else():
    captions, media = torch.tensor([1, 1, 2, 3, 4, 4]), torch.tensor([1, 2, 3, 1, 5, 6])
    chosen = wrong_partners(captions, media)
    assert chosen.tolist() == [4, 4, 5, 1, 1, 2]
    for row, other in enumerate(chosen.tolist()):
        assert captions[row] != captions[other]
        assert media[row] != media[other]
    assert wrong_partners(torch.tensor([5]), torch.tensor([5])).tolist() == [-1]
    assert wrong_partners(torch.tensor([5, 5, 5]), torch.tensor([1, 2, 3])).tolist() == [-1, -1, -1]
    assert wrong_partners(torch.tensor([1, 2]), torch.tensor([1, 2])).tolist() == [1, 0]
