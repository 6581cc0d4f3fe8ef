"""`sclds explore`: what its page says is what the packed model of training completes and attends to."""

import json
import re

import numpy as np
import pytest
import torch

from sclds.batch import recipe_of
from sclds.batch.matches import FRAME_CLS, TEXT_CLS, empty_views, pack_matches, text_alone
from sclds.batch.views import SampleViews
from sclds.cli.main import main
from sclds.config.errors import UserError
from sclds.data.loader import heldout_batches
from sclds.data.tokenizer import load_tokenizer
from sclds.evaluation.completion import completion
from sclds.evaluation.reranker import match_scores
from sclds.interop.conversions import from_run
from sclds.interop.explore import Explorer
from sclds.interop.loaded import LoadedModel
from sclds.model.fusion import fuse
from sclds.reference.standalone import plain_scl
from tests.evaluation.test_align_bench import SIDE, write_pair
from tests.interop.runs import trained_run

TEXT = [0, 40, 50, 60, 2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder, settings and packed model, the same model in plain PyTorch, and what is found of each kind."""
    folder = tmp_path_factory.mktemp("explore") / "run"
    config, model, _ = trained_run(folder, "data.video_size=48", "data.frames=3", "evaluation.max_samples=10")
    loaded = LoadedModel(from_run(folder))
    explorer = Explorer(loaded, config, lambda what, done, total: None)
    found = {of.kind: of for of in explorer(3)}
    explorer.close()
    return folder, config, model, loaded, found


@pytest.mark.parametrize(("kind", "frames", "grid"), [("image", 1, 4), ("video", 3, 3)])
def test_attention_is_that_of_the_packed_model(run, kind, frames, grid):
    """Weights times values, through the output map, is what the last cross-attention gave in training's own code."""
    _, config, model, loaded, _ = run
    generator = torch.Generator().manual_seed(1)
    patches = torch.randn(frames * grid**2, 768, generator=generator)
    text = np.array(TEXT, np.int64)
    shown = SampleViews(**empty_views("", "", kind, frames, grid, np.zeros(0, np.int64), 0))
    recipe = recipe_of(config, loaded.tokenizer.pad_id)
    batch = pack_matches([text_alone(text)], [shown], np.zeros((1, 2), np.int64), patches, recipe)
    given = []
    hook = model.cross_modal_text_layers[-1].cross_attention.register_forward_hook(lambda m, i, out: given.append(out))
    with torch.no_grad():
        match_scores(model, batch, model(batch)["vision_views"])
    hook.remove()
    ids = torch.tensor([[*TEXT, loaded.tokenizer.pad_id]])  # padding takes no part
    mask = ids != loaded.tokenizer.pad_id
    words = loaded.model.encode_text(ids, mask)
    vision = loaded.model.encode_vision(patches.view(1, frames, grid**2, -1), kind == "video")
    weights = loaded.model.attention(words, mask, vision)
    assert weights.shape == (1, 4, 6, frames * (1 + grid**2))
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4, 6))
    *_, before, _ = plain_scl._fusion_states(loaded.model, words, mask, vision, None)
    cross = loaded.model.cross_modal_text_layers[-1].cross_attention
    values = cross.kv(before[1]).chunk(2, dim=-1)[1].unflatten(-1, (4, -1)).transpose(1, 2)
    attended = cross.out((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attended[0, :1], given[-1], rtol=0, atol=2e-6)  # of the last layer [CLS] alone is read


def test_attention_of_every_layer_leaves_out_what_is_masked(run):
    loaded = run[3]
    model = loaded.model.double()
    generator = torch.Generator().manual_seed(2)
    text, vision = (torch.randn(2, n, 32, generator=generator, dtype=torch.float64) for n in (3, 7))
    text_mask, vision_mask = torch.ones(2, 3) > 0, torch.arange(7) < torch.tensor([[7], [2]])
    states = list(plain_scl._fusion_states(model, text, text_mask, vision, vision_mask))
    for number, layer in enumerate(model.cross_modal_text_layers):
        weights = plain_scl.text_to_vision_attention(model, text, text_mask, vision, vision_mask, number)
        assert float(weights[1, :, :, 2:].abs().max()) == 0
        x, y = states[number]
        x = plain_scl._post_norm(layer.self_norm, plain_scl._self_attention(layer.self_attention, x, text_mask), x)
        wanted = plain_scl._cross_attention(layer.cross_attention, x, y, vision_mask)
        values = layer.cross_attention.kv(y).chunk(2, dim=-1)[1].unflatten(-1, (4, -1)).transpose(1, 2)
        given = layer.cross_attention.out((weights.double() @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(given, wanted, rtol=0, atol=1e-6)  # weights are fp32
    model.float()


def packed_alone(config, model, loaded, batch, kind):
    """Return what fusion makes of complete captions beside blank images, and of complete images beside empty texts."""
    none = np.zeros(0, np.int64)
    frames, grid = (1, 4) if kind == "image" else (3, 3)
    shown = [SampleViews(**empty_views("", "", kind, frames, grid, none, 0)) for _ in range(10)]
    tokenizer = loaded.tokenizer
    captions = [np.array(tokenizer.encode(caption, 32)[0], np.int64) for caption in batch.samples.captions]
    empty = [np.array([tokenizer.bos_id, tokenizer.eos_id], np.int64)] * 10
    pairs = np.stack((np.arange(10), np.arange(10)), axis=1)
    found = []
    blank = torch.zeros_like(batch.vision.patches)
    for texts, patches, read in ((captions, blank, TEXT_CLS), (empty, batch.vision.patches, FRAME_CLS)):
        recipe = recipe_of(config, tokenizer.pad_id)
        packed = pack_matches([text_alone(ids) for ids in texts], shown, pairs, patches, recipe)
        text, vision = model.encode(packed)
        layers = model.cross_modal_text_layers, model.cross_modal_image_layers
        streams = dict(
            zip(
                ("text", "vision"),
                fuse(*layers, model.token_type_embeddings(text, vision), packed, False),
                strict=True,
            )
        )
        found.append(streams[read.stream][packed.reads.places[read].flatten()].view(10, -1, 32))
    return dict(zip(("text", "vision"), found, strict=True))


@pytest.mark.parametrize("kind", ["image", "video"])
def test_ranks_are_those_of_the_packed_features(run, kind):
    """Beside its own partner a sample is what `mvsc` and `mlsc` compare on held-out data."""
    _, config, model, loaded, found = run
    dataset = next(d for d in config.data.heldout if d.kind == kind)
    batch = next(heldout_batches(config, load_tokenizer("embedded"), dataset, batch_size=10))
    with torch.no_grad():
        out = model(batch)
        alone = packed_alone(config, model, loaded, batch, kind)
    assert list(batch.samples.ids) == found[kind].sample_ids
    for name, done in (("vision", found[kind].vision), ("text", found[kind].text)):
        recovered, target = (out[f"{name}_{what}"].view(10, -1, 32) for what in ("recovered", "target"))
        for gallery, complete in (("trained", target), ("alone", alone[name])):
            features = dict.fromkeys(("own", "wrong", "none"), recovered)
            wanted = completion(features, complete, torch.arange(10), torch.ones(10) > 0, 5)
            assert torch.equal(done[gallery].ranks["own"], wanted.ranks["own"])
            assert torch.equal(done[gallery].found["own"], wanted.found["own"])
        assert not torch.equal(done["trained"].found["own"], done["alone"].found["own"])
    trained = found[kind].text["trained"]
    assert not torch.equal(trained.found["own"], trained.found["none"])


def test_examples_are_of_both_kinds_and_hide_what_training_hides(run):
    _, config, _, _, found = run
    assert [len(found[kind].examples) for kind in ("image", "video")] == [2, 1]
    one = found["video"].examples[0]
    assert (one.frames.shape, one.attention.shape[1:]) == ((3, 3, 48, 48), (3, 3, 3))
    assert len(one.attention) == 1 + len(one.words) == 1 + len(found["video"].captions[one.number].split())
    assert int((~one.hidden).sum()) == 3 * int(9 * (1 - config.masking.scl_vision_ratio))
    assert "".join(piece for piece, _ in one.masked).strip() == found["video"].captions[one.number]
    assert any(hidden for _, hidden in one.masked)


def test_the_page_is_whole_and_the_same_for_all_that_holds_the_model(run, tmp_path, capsys):
    folder, *_ = run
    assert main(["explore", str(folder), "--examples", "3"]) == 0
    page = (folder / "explore.html").read_text()
    assert "explore.html" in capsys.readouterr().out
    assert not re.search(r"(src|href)=.?(?!data:)(http|//|\w+\.)", page)
    assert page.count('<article class="card example') == 3
    assert len(re.findall(r"rank [\d,]+ of 10<", page)) == 18
    again = tmp_path / "again.html"
    assert main(["explore", str(folder / "checkpoints" / "step-0000003"), "--examples=3", f"--out={again}"]) == 0
    assert again.read_text() == page
    assert main(["convert", "huggingface", str(folder), str(tmp_path / "hub")]) == 0
    sets = [f"--data={kind}:{name}-heldout=embedded:{what}-heldout" for kind, name, what in SETS]
    assert main(["explore", str(tmp_path / "hub"), *sets, "--examples=3", "evaluation.max_samples=10"]) == 0
    exported = (tmp_path / "hub" / "explore.html").read_text()
    assert "What hub completes" in exported
    assert exported.partition("</h1>")[2] == page.partition("</h1>")[2]


def test_alignment_is_measured_from_the_command_line(run, tmp_path, capsys):
    folder, *_ = run
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:2] = True
    write_pair(tmp_path / "bench", "a", "a red dog", {"dog": [([0, 0, 4, 2], mask)]})
    line = ["evaluate", str(folder), "--align-bench", str(tmp_path / "bench")]
    assert main(line) == 0
    found = json.loads((folder / "alignment.json").read_text())["align_bench"]
    assert 0 < found["local"]["box"] == found["local"]["pixel"] < 1
    assert found["global"]["even_box"] == 0.5
    assert "50.0%" in capsys.readouterr().out
    assert main([*line[:-1], str(tmp_path)]) == 2
    assert "no folder of ALIGN-BENCH" in capsys.readouterr().err


SETS = (("image", "pictures", "images"), ("video", "clips", "clips"))


def test_what_cannot_be_explored_is_a_sentence(run, tmp_path, capsys):
    folder, *_ = run
    assert main(["explore", str(tmp_path)]) == 2
    assert "is no run with a complete checkpoint" in capsys.readouterr().err
    assert main(["convert", "run", str(folder), str(tmp_path / "weights")]) == 0
    assert main(["explore", str(tmp_path / "weights")]) == 2
    assert "give --data NAME=SHARDS, or --config" in capsys.readouterr().err
    with pytest.raises(UserError, match="none of the held-out samples can be used"):
        Explorer(run[3], run[1].model_copy(update={"data": run[1].data.model_copy(update={"heldout": []})}), print)(1)
