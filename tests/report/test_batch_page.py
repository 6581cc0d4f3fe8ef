"""The page of a batch holds what the batch holds, and needs nothing else."""

import re

import pytest

from sclds.cli.main import main
from sclds.config.reading import load_config
from sclds.data.loader import TrainingBatches
from sclds.data.quarantine import Quarantine
from sclds.data.tokenizer import load_tokenizer
from sclds.report.batch_page import first_batch

QUICKSTART = "configs/quickstart.yaml"


def shown(tmp_path, *arguments):
    out = tmp_path / "deep" / "page.html"
    assert main(["data", "show", "--config", QUICKSTART, *arguments, "--out", str(out)]) == 0
    return out.read_text()


def test_the_page_shows_the_first_samples_of_the_step(tmp_path, capsys):
    page = shown(tmp_path, "losses.mltc_image=0.2", "data.train.1.weight=9", "--step", "3")
    assert capsys.readouterr().out == f"{tmp_path / 'deep' / 'page.html'}\n"
    config = load_config(QUICKSTART, ["losses.mltc_image=0.2", "data.train.1.weight=9"])
    whole = next(iter(TrainingBatches(config, load_tokenizer("embedded"), 0, 1, 128, 1, 3)))[0]
    ids = [f"{a}/{b}" for a, b in re.findall(r'class="set">(.*?)<.*?class="id">(.*?)<', page)]
    assert ids == list(whole.samples.ids[:16])
    kinds = whole.samples.kinds[:16]
    assert set(kinds) == {"image", "video"}
    frames = {"image": 1, "video": config.data.frames}
    pictures = sum(3 * frames[kind] for kind in kinds) + 16  # three views, a partner each
    assert page.count('src="data:image/webp;base64,') == pictures
    assert page.count("no match") == 8
    assert page.count('class="mark masked"') > 16
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_a_caption_that_is_cut_says_so(tmp_path):
    assert re.search(r"t0, 5 tokens of \d+<", shown(tmp_path, "data.max_text_tokens=5"))


def test_without_itm_no_partner_is_shown(tmp_path):
    assert '<div class="partner">' not in shown(tmp_path, "losses.itm=0")


def test_captions_cannot_write_the_page(tmp_path, make_config):
    from tests.data.synthetic import caption, picture

    evil = {f"{k}.png": picture(k) for k in range(4)} | {f"{k}.json": caption("<script>x</script>") for k in range(4)}
    members = {name: evil[name] for name in sorted(evil)}
    make_config([members], [], {"global_size": 4, "group_size": 2})
    row = f"[{{name: evil, shards: {tmp_path / 'pictures'}}}]"
    page = shown(tmp_path, f"data.train={row}", "batch.global_size=16")
    assert "<script>x" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(("size", "group", "rows"), [(128, 16, 16), (4096, 8, 16), (24, 8, 8), (40, 20, 20)])
def test_only_what_is_shown_is_decoded(size, group, rows):
    overrides = [f"batch.global_size={size}", f"batch.group_size={group}"]
    config = load_config(QUICKSTART, overrides)
    quarantine = Quarantine()
    batch = first_batch(config, load_tokenizer("embedded"), 0, quarantine)
    assert len(batch.samples.kinds) == rows


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["schedule.steps=370", "--step", "370"], "this run has steps 0 to 369"),
        (["schedule.steps=370", "--step", "-1"], "this run has steps 0 to 369"),
        (["data.train.0.shards=nowhere"], "that path does not exist"),
    ],
)
def test_faults_are_sentences(arguments, part, tmp_path, capsys):
    assert main(["data", "show", "--config", QUICKSTART, *arguments, "--out", str(tmp_path / "page.html")]) == 2
    assert part in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_a_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["data", "show", "--config", QUICKSTART, "--out", str(tmp_path / "file" / "page.html")]) == 2
    assert "give another --out" in capsys.readouterr().err
