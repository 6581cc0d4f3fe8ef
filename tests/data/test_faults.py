"""docs/faults.md is true: every fault of its tables is made and gets the result that stands beside it."""

import io
import json
import re
import resource
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from sclds.config import DatasetConfig
from sclds.config.reading import parse_config
from sclds.data.loader import Quarantine, heldout_batches
from sclds.data.media.decode import Decoder, Encoded
from sclds.data.media.inspection import inspect
from sclds.data.storage.shards import BadSampleError, open_index
from sclds.data.tokenizer import load_tokenizer

from .faults import CAPTIONS, PICTURES, TABLES, write_shard
from .faulty_media import bomb
from .media.test_decode import FIRST, SIZE, pixels
from .media.test_images import defined
from .synthetic import picture

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
EVERYTHING = {"max_bad_share": 1.0, "max_text_tokens": 50, "max_pixels": 1_000_000}


def config_over(heldout: list[DatasetConfig], **data):
    """A configuration that holds out some shards and lets all of them be bad."""
    sets = [dataset.model_dump() for dataset in heldout]
    return parse_config(
        {
            "name": "test",
            "data": {"train": [{"name": "none", "shards": "none"}], "heldout": sets, "tokenizer": "embedded"}
            | {"image_size": SIZE, "video_size": SIZE, "decode_threads": 1}
            | EVERYTHING
            | data,
            "model": {"vision": {"patch_size": 8}},
            "batch": {"global_size": 8, "group_size": 2},
            "evaluation": {"max_samples": 100_000, "batch_size": 16},
        }
    )


def results_of(heldout: list[DatasetConfig], folder: Path) -> dict[str, list[str]]:
    """Read all samples of some sets as a run does: by id, "used" or the reason in the quarantine file."""
    quarantine = Quarantine(folder / "quarantine.jsonl")
    found: dict[str, list[str]] = {}
    for batch in heldout_batches(config_over(heldout), load_tokenizer("embedded"), quarantine=quarantine):
        for sample in batch.samples.ids:
            found.setdefault(sample, []).append("used")
        lengths = batch.lengths.text_cu_seqlens.diff().tolist()
        assert all(1 < length <= 50 for length in lengths), "each text is cut, none is empty"
        assert batch.vision.patches.isfinite().all()
    if quarantine.bad:
        for line in (folder / "quarantine.jsonl").read_text().splitlines():
            entry = json.loads(line)
            assert entry.keys() == {"sample", "shard", "dataset", "reason", "step"}
            assert Path(entry["shard"]).is_file()
            found.setdefault(entry["sample"], []).append(entry["reason"])
    assert quarantine.seen == sum(len(open_index([dataset])) for dataset in heldout)
    return found


def page_rows(table: str) -> dict[str, str]:
    """The rows of one table of the page: fault and result."""
    section = PAGE.read_text(encoding="utf-8").split(f"| {table} | result |\n|---|---|\n")[1].split("\n\n")[0]
    return dict(re.fullmatch(r"\| (.*?) \| (.*) \|", line).groups() for line in section.splitlines())


@pytest.mark.parametrize("table", TABLES)
def test_every_fault_has_the_result_that_the_page_gives(table, tmp_path):
    rows = page_rows(table)
    assert list(rows) == list(TABLES[table]), "the page and the faults name the same rows"
    samples, names = {}, {}
    for row, (name, make) in enumerate(TABLES[table].items()):
        for variant, sample in enumerate(make()):
            samples[f"{row:02d}-{variant:02d}"], names[f"{row:02d}"] = sample, name
    shard = write_shard(tmp_path / "00000.tar", samples)
    dataset = DatasetConfig(name="set", shards=str(shard), kind="video" if table == "video" else "image")
    found = results_of([dataset], tmp_path)
    index = open_index([dataset])
    ids = {part.sample_id(row) for part, row in map(index.locate, range(len(index)))}
    assert found.keys() == ids, "no sample is lost unnamed"
    for sample, outcomes in found.items():
        match = re.search(r"(\d\d)-\d\d$", sample)
        name = names[match.group(1)] if match else "one key at two places of a shard"
        reasons = re.findall(r"`(its? [^`]+)`", rows[name])
        for outcome in outcomes:
            allowed = "used" in rows[name] if outcome == "used" else outcome.startswith(tuple(reasons))
            assert allowed, f"{table}, {name}, {sample}: {outcome}, and the page says: {rows[name]}"


def test_each_reason_on_the_page_occurs(tmp_path):
    """A row may give several reasons, but none that no variant has."""
    for table, faults in TABLES.items():
        rows = page_rows(table)
        for row, (name, make) in enumerate(faults.items()):
            reasons = re.findall(r"`(its? [^`]+)`", rows[name])
            if len(reasons) < 2:
                continue
            shard = write_shard(tmp_path / f"{table}-{row}.tar", {f"{v:02d}": s for v, s in enumerate(make())})
            kind = "video" if table == "video" else "image"
            found = results_of([DatasetConfig(name="set", shards=str(shard), kind=kind)], tmp_path / f"{table}-{row}")
            outcomes = [outcome for several in found.values() for outcome in several]
            for reason in reasons:
                assert any(outcome.startswith(reason) for outcome in outcomes), (name, reason, outcomes)


def upright(content: bytes) -> np.ndarray:
    """Pillow's image, scaled."""
    return np.asarray(defined(content).resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32)


USED = [name for name, result in page_rows("image").items() if result.startswith("used")]
FAITHFUL = [name for name in USED if "flipped" not in name]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", FAITHFUL)
def test_odd_pictures_are_what_pillow_makes_of_them(name):
    """No format is decoded to rubbish without a word."""
    config = config_over([DatasetConfig(name="set", shards="none")])
    contents = [sample[0][1] for sample in PICTURES[name]()]
    samples = [Encoded("image", c, inspect("image", c), FIRST) for c in contents]
    for content, rows in zip(contents, Decoder(config, len(samples)).each(samples), strict=True):
        assert rows is not None
        difference = np.abs(pixels(config, rows)[0] - upright(content))
        assert difference.mean() < 1.5, Image.open(io.BytesIO(content))


def test_turned_pictures_have_the_size_as_shown():
    """Crops are drawn for the upright picture."""
    for sample in PICTURES["EXIF that turns or mirrors"]():
        content = sample[0][1]
        shown = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        info = inspect("image", content)
        assert (info.width, info.height) == shown.size


def test_a_bomb_is_not_decoded():
    content = bomb()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadSampleError, match="more pixels than"):
        inspect("image", content)
    with pytest.raises(BadSampleError, match="more pixels than"):
        inspect("image", content[:-40])  # a truncated one would be decoded to find that out
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kilobytes"


def test_the_limit_in_pixels_is_a_setting(tmp_path):
    write_shard(tmp_path / "00000.tar", {"a": [(".png", picture(1, size=(40, 30))), (".txt", b"words")]})
    dataset = DatasetConfig(name="set", shards=str(tmp_path))
    tokenizer = load_tokenizer("embedded")
    assert len(list(heldout_batches(config_over([dataset], max_pixels=1200), tokenizer))) == 1
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    assert list(heldout_batches(config_over([dataset], max_pixels=1199), tokenizer, quarantine=quarantine)) == []
    assert "more pixels than data.max_pixels=1199: 40 × 30" in (tmp_path / "quarantine.jsonl").read_text()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("any script", "قطة صغيرة على كرسي"),
        ("any script", "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽"),
        ("NUL and other", "a small [31m picture"),
        ("half a surrogate", "half \ufffd a pair"),
        ("byte order mark", "words"),
        ("HTML entities", "salt & pepper"),
    ],
)
def test_captions_are_shown_as_the_page_says(tmp_path, row, expected):
    (make,) = (make for name, make in CAPTIONS.items() if name.startswith(row))
    shard = write_shard(tmp_path / "00000.tar", {f"{k:02d}": sample for k, sample in enumerate(make())})
    config = config_over([DatasetConfig(name="set", shards=str(shard))])
    shown = [text for batch in heldout_batches(config, load_tokenizer("embedded")) for text in batch.samples.captions]
    assert expected in shown
    assert all(text.encode("utf-8") for text in shown)


def test_nothing_is_written_under_a_members_name(tmp_path):
    folder = tmp_path / "deep" / "deeper"
    write_shard(folder / "00000.tar", {"a": [("../../evil.png", picture(1)), ("../../evil.txt", b"words")]})
    with tarfile.open(folder / "00000.tar") as tar:
        assert tar.getnames() == ["../../evil.png", "../../evil.txt"]
    found = results_of([DatasetConfig(name="set", shards=str(folder))], tmp_path)
    assert found == {"set/00000/../../evil": ["used"]}
    assert [path.name for path in tmp_path.rglob("*")] == ["deep", "deeper", "00000.tar"]
