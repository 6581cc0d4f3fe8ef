"""The page of `sclds explore`, from figures made by hand."""

import re
from html.parser import HTMLParser

import torch

from sclds.evaluation.completion import Completion
from sclds.report.explore_page import page
from sclds.report.explored import Example, Explored, ExploredKind

HOSTILE = '<script>alert("a & b")</script> it\'s'
EVEN = torch.full((1, 2, 2), 0.2)


def explored(wrong=(1, -1), kind="image", frames=1, untrained=(), captions=(HOSTILE, "two cats")):
    ranks = {"own": [1, 2], "wrong": [2 if wrong[0] >= 0 else 0, 0], "none": [2, 1]}
    done = Completion(
        {name: torch.tensor(of) for name, of in ranks.items()},
        {name: torch.tensor([[0, 1], [0, 1]]) for name in ranks},
    )
    attention = (
        torch.stack((EVEN, torch.tensor([[[0.0, 0.1], [0.2, 0.6]]]))).expand(2, -1, 2, 2).repeat(1, frames, 1, 1)
    )
    example = Example(
        *(0, torch.rand(frames, 3, 8, 8), torch.tensor([[True, False], [True, True]]).expand(frames, 2, 2)),
        *(("it's",), attention, ((" it", False), ("'s", True))),
    )
    both = {"trained": done, "alone": done}
    found = ExploredKind(kind, ["a/0", "a/1"], captions, list(wrong), both, both, [example])
    return Explored('of "<run>"', "run r, step 3", 0.8, 0.4, untrained, 3, [found])


class Reader(HTMLParser):
    """Counts tags that are opened and closed, and refuses what a page would have to fetch."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)
        given = dict(attrs)
        assert all(given.get(name, "data:").startswith("data:") for name in ("src", "href"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_page_is_whole_and_shows_captions_as_they_are():
    for found in (explored(), explored(kind="video", frames=3), explored(wrong=(-1, -1), untrained=("mvsc", "mlsc"))):
        content = page(found, {"a/1": "data:image/webp;base64,AA"})
        reader = Reader()
        reader.feed(content)
        assert reader.open == []
        assert "<script>alert" not in content
        assert "&lt;script&gt;alert(&quot;a &amp; b&quot;)" in content
        assert "no image" in content, "of the sample whose picture is not there"


def test_figures_are_those_of_the_ranks():
    content = page(explored(), {})
    own, wrong, none = re.findall(r"<tr><td>with [^<]* caption</td>(.*?)</tr>", content)[:3]
    assert re.findall(r">([\d.]+%?)<", own) == ["50.0%", "100.0%", "1.5"]
    assert re.findall(r">([\d.]+%?)<", wrong) == ["0.0%", "100.0%", "2"], "of the one sample that has a wrong partner"
    assert re.findall(r">([\d.]+%?)<", none) == ["50.0%", "100.0%", "1.5"]
    assert "its caption against another&#x27;s caption, 1 sample<" in content
    assert 'aria-label="found earlier 1, same rank 0, later 1"' in content
    assert "Left out as unusable: 3 samples." in content
    assert "1 of 4 patches kept" in content
    assert content.count('class="hit right"') == 3


def test_what_cannot_be_compared_is_said():
    content = page(explored(wrong=(-1, -1), untrained=("mvsc",)), {})
    assert "its caption against another&#x27;s caption: no sample has one." in content
    assert "losses.mvsc was 0, so it taught this model nothing of what this page asks" in content
    assert "nan" not in re.sub(r"data:[^\"')]*", "", content).lower()


def test_colored_is_what_gets_more_than_an_even_share():
    content = page(explored(), {})
    assert "whole caption&lt;/b&gt; ([CLS]): up to 20.0% on a patch; even share 20.0%" in content
    assert "it&amp;#x27;s&lt;/b&gt;: up to 60.0% on a patch; even share 22.5%" in content
