"""Duplicates in the pairwise losses: left out or positives, equal to the plain definitions, exact over ranks."""

import itertools

import pytest
import torch

from scl_kernels import InfoNCEProblem, SigmoidProblem, duplicates_of, infonce, infonce_statistics, sigmoid_loss
from scl_kernels.infonce.reference import plain_infonce
from scl_kernels.pairwise import reference as pairwise
from scl_kernels.pairwise.cases import all_pairs
from scl_kernels.sigmoid.reference import plain_sigmoid

DOUBLE = {"dtype": torch.float64}
TREATMENTS = ["ignore", "positives"]
IDS = {
    "one_row": ([7], [7]),
    "a_pair_by_caption": ([5, 5, 6], [1, 2, 3]),
    "prime_and_not_transitive": ([1, 1, 2, 3, 3, 4, -9], [-(2**62), 8, 8, 8, 2**62, 5, 5]),
    "all_duplicates": ([0] * 5, [1, 2, 3, 4, 5]),
    "both_the_same": ([3, 3, 4, 4], [1, 1, 2, 2]),
    "nobody": ([1, 2, 3, 4], [9, 8, 7, 6]),
    "empty": ([], []),
}


def same_by_loop(ids):
    first, second = ids
    rows = range(len(first))
    pairs = [[first[i] == first[j] or second[i] == second[j] for j in rows] for i in rows]
    return torch.tensor(pairs, dtype=torch.bool).view(len(first), len(first))


def draw(count, width=5):
    torch.manual_seed(count)
    a, b = (torch.randn(count, width, **DOUBLE, requires_grad=True) for _ in range(2))
    return a, b, torch.rand(count, **DOUBLE)


def scalars(*values):
    return [torch.tensor(value, **DOUBLE, requires_grad=True) for value in values]


def contrastive(a, b, temperature, weight, duplicates, bounds):
    """Return the sum of all ranks' shares, whose own rows carry gradient."""
    problems = [
        InfoNCEProblem(a[i:j], b[i:j], a.detach(), b.detach(), temperature, i, weight, duplicates)
        for i, j in itertools.pairwise(bounds)
    ]
    statistics = [infonce_statistics([problem])[0] for problem in problems]
    row, col = (torch.cat([getattr(s, name) for s in statistics]) for name in ("row_lse", "col_lse"))
    return sum(infonce([p], [row], [col], [s])[0] for p, s in zip(problems, statistics, strict=True))


def sigmoid(a, b, scale, bias, weight, duplicates, bounds):
    return sum(
        sigmoid_loss(SigmoidProblem(a[i:j], b[i:j], a.detach(), b.detach(), scale, bias, i, weight, duplicates))
        for i, j in itertools.pairwise(bounds)
    )


@pytest.mark.parametrize("case", IDS)
def test_numbers_tell_duplicates_and_count_them(case):
    wanted = same_by_loop(IDS[case])
    found = duplicates_of(torch.tensor(IDS[case], dtype=torch.int64).view(2, -1), "ignore")
    same, _ = all_pairs(found, len(wanted))
    assert torch.equal(same, wanted)
    assert found.counts.tolist() == wanted.sum(1).tolist()


@pytest.mark.parametrize("treatment", TREATMENTS)
@pytest.mark.parametrize("case", IDS)
@pytest.mark.parametrize("ranks", [1, 3])
def test_both_losses_equal_their_plain_definitions(case, treatment, ranks):
    """Values and gradients, of one process and added up over ranks of which some have a row's duplicates alone."""
    ids, same = torch.tensor(IDS[case], dtype=torch.int64).view(2, -1), same_by_loop(IDS[case])
    count = len(same)
    bounds = [0, count] if ranks == 1 else [0, count // 3, count // 3, count]
    (a, b, weight), duplicates = draw(count), duplicates_of(ids, treatment)
    for loss, plain, numbers in (
        (contrastive, lambda *x: plain_infonce(*x, weight, same, treatment), scalars(0.3)),
        (sigmoid, lambda *x: (weight * plain_sigmoid(*x, same, treatment)).sum(), scalars(4.0, -1.5)),
    ):
        leaves = (a, b, *numbers)
        got, wanted = loss(a, b, *numbers, weight, duplicates, bounds), plain(a, b, *numbers)
        torch.testing.assert_close(got, wanted)
        torch.testing.assert_close(torch.autograd.grad(got, leaves), torch.autograd.grad(wanted, leaves))


def test_multi_positive_infonce_is_that_of_supcon():
    """L_out, arXiv 2004.11362 eq. 2, in either direction, written with loops."""
    ids = IDS["prime_and_not_transitive"]
    same, (a, b, _) = same_by_loop(ids), draw(7)
    weight = torch.full((7,), 1 / 7, **DOUBLE)
    similarity = torch.nn.functional.normalize(a) @ torch.nn.functional.normalize(b).T / 0.3
    wanted = 0
    for s in (similarity, similarity.T):
        for i in range(7):
            positives = [p for p in range(7) if same[i, p]]
            wanted -= sum(s[i, p] - s[i].logsumexp(0) for p in positives) / len(positives) / 7
    duplicates = duplicates_of(torch.tensor(ids), "positives")
    torch.testing.assert_close(contrastive(a, b, 0.3, weight, duplicates, [0, 7]), wanted)


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_gradcheck(treatment, monkeypatch):
    monkeypatch.setattr(pairwise, "CHUNK_BYTES", 8 * 2 * 7)  # two rows a chunk and an uneven last one
    a, b, weight = draw(7)
    duplicates = duplicates_of(torch.tensor(IDS["prime_and_not_transitive"]), treatment)
    inputs = (a, b, *scalars(0.3))
    assert torch.autograd.gradcheck(lambda *x: contrastive_of_one(*x, weight, duplicates), inputs)
    inputs = (a, b, *scalars(4.0, -1.5))
    assert torch.autograd.gradcheck(lambda *x: 3 * sigmoid_of_one(*x, weight, duplicates), inputs)


def contrastive_of_one(*given):
    return contrastive(*given, [0, 7])


def sigmoid_of_one(*given):
    return sigmoid(*given, [0, 7])


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_without_duplicates_the_loss_is_the_one_with_negatives(treatment):
    a, b, weight = draw(9)
    duplicates = duplicates_of(torch.arange(9).expand(2, -1).contiguous(), treatment)
    for loss, numbers in ((contrastive, scalars(0.3)), (sigmoid, scalars(4.0, -1.5))):
        with_them, without = (loss(a, b, *numbers, weight, known, [0, 4, 9]) for known in (duplicates, None))
        torch.testing.assert_close(with_them, without, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("treatment", "correct"), [("ignore", [True] * 3), ("positives", [True] * 3)])
def test_a_duplicate_that_is_nearer_makes_nothing_wrong(treatment, correct):
    a, b = torch.eye(3), torch.tensor([[0.3, 1, 0], [1, 0.3, 0], [0, 0, 1]])  # the first two are the wrong way round
    for known, wanted in (
        (None, [False, False, True]),
        (duplicates_of(torch.tensor([[1, 1, 2]] * 2), treatment), correct),
    ):
        problem = InfoNCEProblem(a, b, a, b, 0.1, 0, torch.ones(3), known)
        (statistics,) = infonce_statistics([problem])
        assert statistics.row_correct.tolist() == statistics.col_correct.tolist() == wanted


def test_operators_follow_the_rules_of_custom_operators():
    ops = torch.ops.scl_kernels
    a_all, b_all, weight = (x.detach() for x in draw(7))
    a, b, temperature = a_all[2:5].clone(), b_all[2:5].clone(), torch.tensor([0.3], **DOUBLE)
    scale, bias = (x.detach() for x in scalars(4.0, -1.5))
    for treatment in TREATMENTS:
        numbers, count, _ = duplicates_of(torch.tensor(IDS["prime_and_not_transitive"]), treatment)
        given = ([a], [b], [a_all], [b_all], temperature, [2])
        known = ([numbers], treatment)
        torch.library.opcheck(ops.infonce_statistics.default, (*given, "torch", *known))
        statistics = ops.infonce_statistics(*given, "torch", *known)[:3]
        counts = [count] if treatment == "positives" else None
        rest = ([weight], [weight], [weight], statistics, "torch", *known, counts)
        torch.library.opcheck(ops.infonce_backward.default, (torch.ones(1, **DOUBLE), *given, *rest))
        torch.library.opcheck(ops.sigmoid_statistics.default, (a, b_all, scale, bias, 2, "torch", numbers, treatment))
        given = (scale, a, b, a_all, b_all, scale, bias, weight, 2, "torch", numbers, treatment)
        torch.library.opcheck(ops.sigmoid_gradients.default, given)


def test_bad_input_is_named():
    a, b, weight = (x.detach() for x in draw(4))
    with pytest.raises(ValueError, match=r"ids_all has shape \(4,\); expected \(2, any\)"):
        duplicates_of(torch.arange(4), "ignore")
    with pytest.raises(ValueError, match="treatment is 'skip'; expected 'ignore' or 'positives'"):
        duplicates_of(torch.zeros(2, 4, dtype=torch.int64), "skip")
    ignored, positive, few = (
        duplicates_of(torch.zeros(2, n, dtype=torch.int64), t)
        for n, t in ((4, "ignore"), (4, "positives"), (3, "ignore"))
    )
    problem = InfoNCEProblem(a, b, a, b, 0.1, 0, weight, ignored)
    with pytest.raises(ValueError, match=r"problems\[1\] has duplicates as positives, and problems\[0\] as ignore"):
        infonce_statistics([problem, problem._replace(duplicates=positive)])
    with pytest.raises(ValueError, match=r"problems\[1\] has duplicates as negatives"):
        infonce_statistics([problem, problem._replace(duplicates=None)])
    with pytest.raises(ValueError, match=r"problems\[0\].duplicates.numbers has shape \(2, 131\); expected \(2, 132\)"):
        infonce_statistics([problem._replace(duplicates=few)])
    with pytest.raises(ValueError, match=r"problem.duplicates.numbers has shape"):
        sigmoid_loss(SigmoidProblem(a, b, a, b, torch.tensor(4.0), torch.tensor(0.0), 0, weight, few))
