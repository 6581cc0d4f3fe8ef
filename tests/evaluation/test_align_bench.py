"""ALIGN-BENCH on folders of its layout, with scores computed by hand."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from sclds.cli.main import main
from sclds.config.errors import ConfigError, DataError
from sclds.config.reading import parse_config
from sclds.data.loader import HeldoutChunk
from sclds.data.storage.shards import BadSampleError
from sclds.data.tokenizer import load_tokenizer
from sclds.evaluation import alignment
from sclds.evaluation.align_bench import Region, pair_names, phrase_tokens, read_pair, resized
from sclds.evaluation.alignment import AlignReader, alignment_problems, text_to_vision
from sclds.evaluation.tasks import evaluate, figure_names, figures, higher_is_better, sections
from sclds.interop.folder import ModelFolder, Origin, write_folder
from sclds.interop.loaded import LoadedModel
from sclds.interop.preprocessing import of_run
from sclds.losses.communicator import SingleProcess
from sclds.model.scl import SCLModel
from tests.losses.threads import run_ranks
from tests.train.synthetic import tiny_config

TOKENIZER = load_tokenizer("embedded")
SIDE = 4  # pixels of the images and patches of the model, so that a region is resized to itself


def pixels(*places):
    mask = np.zeros((SIDE, SIDE), bool)
    for row, column in places:
        mask[row, column] = True
    return mask


def write_pair(folder, name, caption, annotation, protocol=4):
    for part in ("images", "pkls"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), "white").save(folder / "images" / f"{name}.jpg")
    regions = {
        phrase: [{"bbox_mask": box, "pixel_mask": mask} for box, mask in found] for phrase, found in annotation.items()
    }
    content = pickle.dumps({"caption": caption, "annotation": regions}, protocol=protocol)
    (folder / "pkls" / f"{name}.pkl").write_bytes(content)


def settings(folder, **model):
    """Return the settings of a run whose image tower has 4 x 4 patches of a pixel, and which measures this alone."""
    tree = tiny_config().model_dump(mode="json")
    tree["data"] |= {"image_size": SIDE, "video_size": SIDE}
    tree["model"]["vision"] |= {"patch_size": 1, "pretrained_image_size": SIDE}
    tree["model"]["text"] |= {"vocab_size": 0, "max_positions": 40}
    tree["model"]["fusion"] |= model
    tree["evaluation"] = {"tasks": ["align_bench"], "align_bench": str(folder), "batch_size": 2}
    return parse_config(tree)


def model_of(config):
    model = SCLModel(config.model, TOKENIZER.vocab_size)
    model.initialize(3)
    torch.manual_seed(0)
    with torch.no_grad():  # far from initial values, so that tokens attend to different places
        for parameter in model.parameters():
            parameter += 0.5 * torch.randn_like(parameter) * parameter.std(correction=0).clamp(min=0.05)
        model.cross_modal_text_layers[-1].cross_attention.q.weight.mul_(50)
    return model.eval()


def found_by(model, config, communicator=None):
    return evaluate(model, config, TOKENIZER, torch.device("cpu"), communicator or SingleProcess())


EVEN = np.ones((2, SIDE, SIDE))
CORNER = np.stack((pixels((0, 0)), pixels((3, 3)))) * 1.0  # a head each: the largest of both is 1 at two corners
ROW = np.stack((pixels((0, 0), (0, 1)), pixels((0, 0)))) * [[[3.0]], [[1.0]]]


@pytest.fixture
def measured(monkeypatch):
    """Return what is measured on a folder, of a model whose tokens attend as they are told, by word.

    A word's weights are those of 2 heads over 4 x 4 patches; the image's [CLS] is loud, and does not count.
    """

    def of_folder(folder, **of_word):
        maps = {word: torch.as_tensor(told, dtype=torch.float32) for word, told in of_word.items()}

        def told(model, batch):
            found = []
            for pair in batch.shown:
                words, (_, index) = pair.caption.split(), TOKENIZER.encode(pair.caption, 30)
                rows = [maps["cls" if word < 0 else words[word].strip(".,").lower()] for word in index]
                weights = torch.stack(rows, dim=1).flatten(2)  # (2, T, 16)
                found.append(torch.cat((torch.full((*weights.shape[:2], 1), 9.0), weights), dim=2))
            return found

        config = settings(folder)
        with monkeypatch.context() as patched:
            patched.setattr(alignment, "text_to_vision", told)
            return found_by(SCLModel(config.model, TOKENIZER.vocab_size), config)["align_bench"]

    return of_folder


def test_scores_are_those_computed_by_hand(tmp_path, measured):
    left, whole = ([0, 0, 2, 2], pixels((0, 0), (1, 1), (0, 3))), ([0, 0, 4, 4], pixels((2, 2)))
    right = ([2.0, 2.0, 4.0, 4.0], pixels((3, 3)))
    write_pair(tmp_path, "a", "A red car, and trees.", {"red car": [left], "trees": [right, whole]})
    write_pair(tmp_path, "b", "a car", {"car": [whole]})
    found = measured(tmp_path, cls=CORNER, a=EVEN, red=EVEN, car=ROW, trees=CORNER, **{"and": EVEN})
    # [CLS] looks at both corners; the box over the whole image is left out, and with it all that b has
    assert found["global"] == {"box": 1.0, "pixel": 1.0, "even_box": 0.5, "even_pixel": 0.25, "n": 1}
    # red and car are a token each: 1 everywhere, and 3 at (0, 0) and (0, 1); the comma is passed over
    box, pixel = (4 + 6) / (16 + 6), (3 + 3) / (16 + 6)
    of_b = (1.0, 0.0)  # a phrase's own box counts whatever its size; car does not look at (2, 2)
    assert found["local"]["box"] == pytest.approx(((box + 1.0) / 2 + of_b[0]) / 2)
    assert found["local"]["pixel"] == pytest.approx(((pixel + 0.5) / 2 + of_b[1]) / 2)
    assert (found["local"]["n"], found["pairs"], found["left_out"]) == (2, 2, {})


def test_phrases_are_found_where_their_words_stand_side_by_side():
    tokenizer = TOKENIZER
    caption = "A dog, a red dog. And a cat"
    ids, words = tokenizer.encode(caption, 40)
    pieces = list(zip(("", *tokenizer.pieces(ids[1:-1]), ""), words, strict=True))

    def said(phrase):
        return "".join(pieces[at][0] for at in phrase_tokens(phrase, pieces)).split()

    assert said("red dog") == ["red", "dog"], "the second dog, without its full stop"
    assert said("dog") == ["dog"]
    assert phrase_tokens("dog", pieces) != phrase_tokens("red dog", pieces)[1:]
    assert said("cat dog") == ["dog", "cat"], "words that do not stand side by side are found one by one"
    assert said("horse") == said(".") == said("") == []


def test_a_region_is_resized_as_a_bicubic_filter_weighs_it():
    """Against the kernel itself (a = -0.5), stretched by the scale and cut at the edges, as Pillow has it."""
    rng = np.random.default_rng(0)
    mask = rng.random((12, 7)) < 0.4

    def matrix(size, grid):
        scale = size / grid
        support = max(scale, 1.0)
        centers = (np.arange(grid)[:, None] + 0.5) * scale
        x = np.abs((np.arange(size) + 0.5 - centers) / support)
        weights = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
        return weights / weights.sum(1, keepdims=True)

    wanted = (matrix(12, 3) @ mask @ matrix(7, 3).T).clip(0, 1)
    np.testing.assert_allclose(resized(mask, 3), wanted, atol=1e-6)
    assert np.array_equal(resized(mask[:4, :4], 4), mask[:4, :4])
    assert resized(np.ones((50, 31), bool), 18) == pytest.approx(np.ones((18, 18)))


def test_boxes_end_at_the_edge_of_the_image():
    region = Region((-5.0, 1.4, 2.6, 99.0), pixels())
    assert np.array_equal(region.drawn("box"), np.arange(SIDE)[:, None] >= [[1, 1, 1, 9]])
    assert region.share == 9 / 16


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_arrays_are_read_in_every_protocol(tmp_path, protocol):
    mask = pixels((1, 2))
    write_pair(tmp_path, "a", "a dog", {"dog": [(np.array([0, 0, 2, 2]), mask)]}, protocol)
    assert np.array_equal(read_pair(tmp_path, "a").phrases["dog"][0].pixels, mask)


class Danger:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_pickle_that_names_code_runs_nothing(tmp_path, capsys):
    write_pair(tmp_path, "a", "a dog", {"dog": [(Danger(), pixels())]})
    with pytest.raises(BadSampleError, match=r"it names builtins\.print, which is no array"):
        read_pair(tmp_path, "a")
    assert capsys.readouterr().out == ""


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path, measured):
    write_pair(tmp_path, "good", "a dog", {"dog": [([0, 0, 2, 2], pixels((0, 0)))]})
    write_pair(tmp_path, "empty", " ", {})
    write_pair(tmp_path, "shape", "a dog", {"dog": [([0, 0, 2, 2], np.ones((2, 9), bool))]})
    write_pair(tmp_path, "none", "a dog", {})
    for name in ("cut", "lost"):
        write_pair(tmp_path, name, "a dog", {})
    (tmp_path / "pkls" / "cut.pkl").write_bytes(b"\x80\x04")
    (tmp_path / "images" / "lost.jpg").unlink()
    found = measured(tmp_path, cls=EVEN, a=EVEN, dog=EVEN)
    assert (found["pairs"], found["global"]["n"], found["local"]["n"]) == (2, 1, 1)
    assert found["global"]["box"] == pytest.approx(0.25)
    assert found["local"]["pixel"] == pytest.approx(1 / 16)
    reasons = {one["first"]: reason for reason, one in found["left_out"].items()}
    assert sorted(reasons) == ["cut", "empty", "lost", "shape"]
    assert "expected a mask of 4 x 4 truth values, got (2, 9)" in reasons["shape"]
    (tmp_path / "pkls" / "good.pkl").unlink()
    (tmp_path / "pkls" / "none.pkl").unlink()
    with pytest.raises(DataError, match="none of the 4 pairs"):
        measured(tmp_path)
    with pytest.raises(DataError, match=r"no folder of ALIGN-BENCH: it has no pkls/ID\.pkl"):
        pair_names(tmp_path / "images")


CAPTIONS = (
    "a dog",
    "cat",
    "a red dog beside a small grey car under trees",
    "two cats",
    "a tree",
    "a dog and a car",
    "sky",
)


@pytest.fixture
def benchmark(tmp_path):
    """Seven pairs of different images, one of which cannot be used."""
    rng = np.random.default_rng(0)
    for number, caption in enumerate(CAPTIONS):
        region = ([number % 3, 0, number % 3 + 2, 3], rng.random((SIDE, SIDE)) < 0.5)
        write_pair(tmp_path / "bench", f"p{number}", caption, {caption.split()[-1]: [region]})
        shown = rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(shown).save(tmp_path / "bench" / "images" / f"p{number}.jpg", quality=100)
    (tmp_path / "bench" / "pkls" / "p6.pkl").write_bytes(b"cut")
    return tmp_path / "bench"


def loaded(config, model):
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    text = config.model.text.model_copy(update={"vocab_size": TOKENIZER.vocab_size})
    architecture = config.model.model_copy(update={"text": text})
    return ModelFolder(architecture, weights, Origin("test"), preprocessing=of_run(config))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_attention_is_that_of_the_plain_definition(benchmark, layers):
    config = settings(benchmark, layers=layers)
    model, reader = model_of(config), AlignReader(config, TOKENIZER, 7)
    dataset = alignment.AlignPass(model, config, TOKENIZER, torch.device("cpu"), SingleProcess())._datasets()[0]
    batch = reader(HeldoutChunk(dataset, 0, 7))
    with torch.no_grad():
        found = text_to_vision(model, batch)
    plain = LoadedModel(loaded(config, model))
    wanted = plain.attention(list(CAPTIONS[:6]), [pair.image for pair in batch.shown])
    assert len(found) == len(wanted) == 6
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
        assert theirs.std(dim=-1).max() > 0.01, "tokens attend to some places more than to others"


def test_any_number_of_ranks_gives_the_same(benchmark):
    """With more ranks than batches too, and with batches of which nothing can be used."""
    config = settings(benchmark)
    model = model_of(config)
    alone = found_by(model, config)
    found = alone["align_bench"]
    assert (found["pairs"], found["global"]["n"], found["local"]["n"]) == (6, 6, 6)
    assert [one["first"] for one in found["left_out"].values()] == ["p6"]
    for ranks in (2, 3, 5):
        assert all(one == alone for one in run_ranks(ranks, lambda of: found_by(model, config, of)))
    assert (
        set(figures(alone))
        == set(figure_names(config))
        == {f"heldout/align_bench/{score}_{form}" for score in ("global", "local") for form in ("box", "pixel")}
    )
    assert all(map(higher_is_better, figures(alone)))
    [section] = sections(alone)
    assert [name for name, _ in section.rows] == ["global", "local"]
    assert "Left out: 1, its pickle cannot be read" in section.note
    for name in ("p0", "p1", "p2", "p3", "p4", "p5"):
        (benchmark / "images" / f"{name}.jpg").unlink()
    with pytest.raises(DataError, match="none of the 7 pairs"):
        found_by(model, config)


def test_the_command_measures_any_weights(benchmark, tmp_path, monkeypatch, capsys):
    config = settings(benchmark)
    model = model_of(config)
    write_folder(tmp_path / "weights", loaded(config, model))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    same = ["engine.precision=fp32", "evaluation.batch_size=2"]
    assert main(["evaluate", str(tmp_path / "weights"), "--align-bench", str(benchmark), *same]) == 0
    shown = capsys.readouterr().out
    assert "ALIGN-BENCH: attention in the regions" in shown
    found = json.loads((tmp_path / "weights" / "alignment.json").read_text())
    assert found["align_bench"] == found_by(model, config)["align_bench"]
    assert main(["evaluate", str(tmp_path / "weights"), "--align-bench", str(tmp_path)]) == 2
    assert "no folder of ALIGN-BENCH" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), "--align-bench", str(benchmark), "--data", "a=b"]) == 2
    assert "leave out --data" in capsys.readouterr().err


def test_settings_without_effect_are_refused(tmp_path):
    tree = settings(tmp_path).model_dump(mode="json")
    assert alignment_problems(parse_config(tree))[0].startswith("evaluation.align_bench: ")
    for change, words in (
        ({"align_bench": None}, "align_bench reads the folder evaluation.align_bench"),
        ({"tasks": ["losses"]}, "has no effect without align_bench in evaluation.tasks"),
    ):
        with pytest.raises(ConfigError, match=words):
            parse_config(tree | {"evaluation": tree["evaluation"] | change})
    tree["data"]["heldout"] = [{"name": "align_bench", "shards": "x"}]
    with pytest.raises(ConfigError, match="the name of a task's own set"):
        parse_config(tree)
