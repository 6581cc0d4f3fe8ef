"""How many samples each public data set has, as published, and what share of a list of addresses others still found.

Addresses die: a share is what somebody could download at the time that is given, so it is less by now.
"""

from dataclasses import dataclass
from typing import Any

_FAR_BELOW = 0.8
"""Of what others could download: less than this points at the user's own download or folders."""


@dataclass(frozen=True)
class Expected:
    """One split.

    Attributes:
        count: Samples that its owners list.
        source: Who says so, and the year.
        alive: Share of them that somebody could download; None where that is not known, 1 where files are handed out.
        witness: Who that was, and when.
    """

    count: int
    source: str
    alive: float | None = 1.0
    witness: str = ""


_KARPATHY = "Karpathy and Fei-Fei, 2015"
_PANDA = "its authors' repository, 2024"
_PANDA_ALIVE, _PANDA_WITNESS = 15_537 / 27_092, "of the videos that ShareGPT4Video takes from it, June 2024"
_INTERNVID = "Wang et al., 2023, rounded"

EXPECTED: dict[str, dict[str, Expected]] = {
    "coco": {
        "train": Expected(113_287, _KARPATHY),
        "val": Expected(5_000, _KARPATHY),
        "test": Expected(5_000, _KARPATHY),
    },
    "visual_genome": {"train": Expected(108_077, "its download page, version 1.2, 2016")},
    "sbu": {
        "train": Expected(1_000_000, "Ordonez et al., 2011", 0.86, "img2dataset's examples, 2022"),
    },
    "cc3m": {
        "train": Expected(3_318_333, "Sharma et al., 2018", 2_905_954 / 3_318_333, "pixparse, December 2021"),
        "val": Expected(15_840, "Sharma et al., 2018", 13_443 / 15_840, "pixparse, December 2023"),
    },
    "cc12m": {
        "train": Expected(12_423_374, "Changpinyo et al., 2021", 10_968_539 / 12_423_374, "pixparse, by December 2023"),
    },
    "webvid": {"train": Expected(2_500_000, "Bain et al., 2021, rounded", None)},
    "flickr30k": {
        "train": Expected(29_000, _KARPATHY),
        "val": Expected(1_014, _KARPATHY),
        "test": Expected(1_000, _KARPATHY),
    },
    "msrvtt": {
        "train": Expected(6_513, "Xu et al., 2016"),
        "val": Expected(497, "Xu et al., 2016"),
        "test": Expected(2_990, "Xu et al., 2016"),
    },
    "msrvtt_1ka": {
        "train": Expected(9_000, "Yu et al., 2018"),
        "test": Expected(1_000, "Yu et al., 2018"),
    },
    "lsmdc": {
        "train": Expected(101_079, "Liu et al., 2019"),
        "val": Expected(7_408, "Liu et al., 2019"),
        "test": Expected(1_000, "Liu et al., 2019"),
    },
    "panda70m": {
        "panda70m_training_2m.csv": Expected(2_400_000, _PANDA, _PANDA_ALIVE, _PANDA_WITNESS),
        "panda70m_training_10m.csv": Expected(10_473_922, _PANDA, _PANDA_ALIVE, _PANDA_WITNESS),
        "panda70m_training_full.csv": Expected(70_723_513, _PANDA, _PANDA_ALIVE, _PANDA_WITNESS),
        "panda70m_validation.csv": Expected(6_000, _PANDA, _PANDA_ALIVE, _PANDA_WITNESS),
        "panda70m_testing.csv": Expected(6_000, _PANDA, _PANDA_ALIVE, _PANDA_WITNESS),
    },
    "internvid": {
        "InternVid-10M-flt.jsonl": Expected(10_000_000, _INTERNVID, None),
        "InternVid-10M-FLT-INFO.jsonl": Expected(10_000_000, _INTERNVID, None),
        "InternVid-10M-DIV.jsonl": Expected(10_000_000, _INTERNVID, None),
        "InternVid-full.jsonl": Expected(234_000_000, _INTERNVID, None),
    },
    "sharegpt4video": {"train": Expected(40_000, "Chen et al., 2024, rounded")},
    "vqav2": {
        "train": Expected(82_783, "Goyal et al., 2017"),
        "val": Expected(40_504, "Goyal et al., 2017"),
        "test": Expected(81_434, "Goyal et al., 2017"),
    },
    "easy_vqa": {
        "train": Expected(4_000, "easy-vqa 1.0"),
        "test": Expected(1_000, "easy-vqa 1.0"),
    },
    "snli_ve": {
        "train": Expected(29_783, "Xie et al., 2019"),
        "val": Expected(1_000, "Xie et al., 2019"),
        "test": Expected(1_000, "Xie et al., 2019"),
    },
}
"""By data set and split, or the list's file name where a split has several lists."""


def found(kept: int, expected: Expected) -> dict[str, Any]:
    """Return what was found beside what was expected, as the report has it.

    Args:
        kept: Samples.
        expected: Of the split.

    Returns:
        count, share, source; sentence: all that is known, in words.
    """
    share = kept / expected.count
    sentence = f"found {kept:,} of {expected.count:,} expected ({_percent(share)}; {expected.source})"
    if expected.alive is None:
        sentence += "; how many can still be downloaded is not known"
    elif expected.alive < 1:
        sentence += f"; others could still download {_percent(expected.alive)} ({expected.witness})"
    if share < _FAR_BELOW * (expected.alive or 0):
        sentence += (
            ": far fewer than "
            + ("there are" if expected.alive == 1 else "others had")
            + ", so look at what was dropped, and at whether the download ended early or lies elsewhere"
        )
    return {"count": expected.count, "share": round(share, 4), "source": expected.source, "sentence": sentence}


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 or share == 0 else "less than 0.1 %"
