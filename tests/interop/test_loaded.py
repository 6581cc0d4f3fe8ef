"""`sclds.load`: features are those of held-out evaluation, whatever holds the model and whatever the images come in."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from torch.nn.functional import normalize
from transformers import AutoModel, AutoProcessor
from transformers.utils import hub

import sclds
from sclds.batch.unpacking import sample_of
from sclds.cli.main import main
from sclds.config.errors import UserError
from sclds.data.loader import heldout_batches
from sclds.data.samples import HELDOUT, SampleMaker
from sclds.data.storage.shards import open_index
from sclds.data.tokenizer import load_tokenizer
from tests.interop.runs import trained_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run, what its evaluation found, and the files and captions of its held-out samples by kind."""
    root = tmp_path_factory.mktemp("load")
    config, model, found = trained_run(root / "run", "data.video_size=48", "data.frames=3", "evaluation.max_samples=10")
    samples = {}
    for dataset in config.data.heldout:
        maker = SampleMaker(config, load_tokenizer("embedded"), open_index([dataset]))
        rows = []
        for number in range(config.evaluation.max_samples):
            file = root / f"{dataset.name}-{number}.{'webp' if dataset.kind == 'image' else 'webm'}"
            file.write_bytes(maker.encoded(number, HELDOUT).content)
            rows.append((file, maker.views(number, HELDOUT).caption))
        samples[dataset.kind] = tuple(map(list, zip(*rows, strict=True)))
        maker.close()
    return root, config, model, found, samples


@pytest.fixture(scope="module")
def loaded(run):
    return sclds.load(run[0] / "run")


def test_features_are_those_of_evaluation(run, loaded):
    _, _, _, found, samples = run
    for kind, encode in (("image", loaded.encode_image), ("video", loaded.encode_video)):
        files, captions = samples[kind]
        pairs = (encode(files, batch_size=4), found[kind].vision), (loaded.encode_text(captions), found[kind].text)
        for ours, evaluated in pairs:
            torch.testing.assert_close(ours, normalize(torch.cat(evaluated), dim=1), rtol=0, atol=1e-6)
            assert ours.shape == (10, 16)


def test_whatever_holds_the_model_gives_the_same(run, loaded):
    root, _, _, _, samples = run
    assert main(["convert", "run", str(root / "run"), str(root / "weights")]) == 0
    assert main(["convert", "huggingface", str(root / "weights"), str(root / "hub")]) == 0
    files, captions = samples["image"]
    for path in (root / "run" / "checkpoints" / "step-0000003", root / "weights", str(root / "hub")):
        other = sclds.load(path)
        assert torch.equal(other.encode_image(files[:2]), loaded.encode_image(files[:2]))
        assert torch.equal(other.match(captions[:2], files[:2]), loaded.match(captions[:2], files[:2]))


@pytest.fixture(scope="module")
def exported(run):
    root = run[0]
    assert main(["convert", "huggingface", str(root / "run"), str(root / "OUT")]) == 0
    return root / "OUT"


def test_the_pipeline_of_the_docs_retrieves_as_the_loaded_model(run, loaded, exported, monkeypatch, capsys):
    page = (ROOT / "docs" / "models.md").read_text()
    code = next(c for c in re.findall(r"```python\n(.*?)```", page, re.S) if "Pipeline" in c)
    files, captions = run[4]["image"]
    monkeypatch.chdir(exported.parent)
    found = {"images": [Image.open(file) for file in files]}
    exec(compile(code, "docs/models.md", "exec"), found)
    assert "'score'" in capsys.readouterr().out
    similar = loaded.encode_text(captions[3]) @ loaded.encode_image(files).T
    best = found["retrieve"](captions[3], gallery=found["gallery"], top_k=3)
    assert [one["image"] for one in best] == similar[0].topk(3).indices.tolist()
    assert [one["score"] for one in best] == pytest.approx(similar[0].topk(3).values.tolist(), abs=1e-5)


def test_what_is_pushed_to_the_hub_is_the_whole_model(run, loaded, exported, monkeypatch, tmp_path):
    """The library's own upload, with a folder in the hub's place."""

    class Hub:
        def create_repo(self, repo_id, **options):
            return SimpleNamespace(repo_id=repo_id)

        def create_commit(self, repo_id, operations, **options):
            for one in operations:
                file = tmp_path / repo_id / one.path_in_repo
                file.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(one.path_or_fileobj, file)

    monkeypatch.setattr(hub, "hf_api", Hub)
    monkeypatch.setattr(hub, "create_and_tag_model_card", lambda *a, **k: ModelCard("---\nlibrary_name: x\n---\n"))
    model = AutoModel.from_pretrained(exported, trust_remote_code=True)
    model.push_to_hub("somebody/model")
    AutoProcessor.from_pretrained(exported, trust_remote_code=True).push_to_hub("somebody/model")
    pushed = tmp_path / "somebody" / "model"
    files, captions = run[4]["image"]
    again = AutoModel.from_pretrained(pushed, trust_remote_code=True).eval()
    inputs = AutoProcessor.from_pretrained(pushed, trust_remote_code=True)(
        text=captions[:2], images=[Image.open(file) for file in files[:2]]
    )
    with torch.inference_mode():
        assert torch.equal(again(**inputs).itm_logits, model.eval()(**inputs).itm_logits)
    assert torch.equal(sclds.load(pushed).match(captions[:2], files[:2]), loaded.match(captions[:2], files[:2]))


@pytest.mark.parametrize("kind", ["image", "video"])
def test_attention_sums_to_one_and_has_the_shape_that_is_told(run, loaded, kind):
    files, captions = run[4][kind]
    frames, places = (1, 16) if kind == "image" else (3, 9)
    found = loaded.attention(captions[:3], **{f"{kind}s": files[:3]}, batch_size=2)
    lengths = [len(loaded.tokenizer.encode(caption, 32)[0]) for caption in captions[:3]]
    assert [tuple(one.shape) for one in found] == [(4, n, frames * (1 + places)) for n in lengths]
    for one in found:
        torch.testing.assert_close(one.sum(-1), torch.ones(one.shape[:2]))
    alone = loaded.attention(captions[1], **{f"{kind}s": files[1]})[0]
    torch.testing.assert_close(alone, found[1], rtol=0, atol=1e-6)


def test_images_and_videos_may_come_decoded(run, loaded):
    _, _, _, _, samples = run
    file = samples["image"][0][0]
    wanted = loaded.encode_image(file)
    image = Image.open(file)
    pixels = np.array(image.convert("RGB"))
    forms = [str(file), image, [image], pixels, pixels[None], torch.from_numpy(pixels), pixels.transpose(2, 0, 1)]
    for form in forms:
        assert torch.equal(loaded.encode_image(form), wanted)
    torch.testing.assert_close(loaded.encode_image([file, image, pixels]), wanted.expand(3, -1), rtol=0, atol=1e-6)
    turned = [np.roll(pixels, shift, axis=0) for shift in (0, 5, 9)]
    video = loaded.encode_video(np.stack(turned))
    for form in (turned, [Image.fromarray(frame) for frame in turned], [turned], np.stack(turned)[None]):
        assert torch.equal(loaded.encode_video(form), video)
    assert torch.equal(loaded.encode_video([frame for frame in turned for _ in range(3)]), video), "middle frames"


@pytest.mark.parametrize("kind", ["image", "video"])
def test_matching_and_fusion_are_those_of_the_packed_model(run, loaded, kind):
    _, config, model, _, samples = run
    dataset = next(d for d in config.data.heldout if d.kind == kind)
    batch = next(heldout_batches(config, load_tokenizer("embedded"), dataset, batch_size=10))
    with torch.no_grad():
        logits = model(batch)["itm_logits"]
    files, captions = samples[kind]
    partners = [sample_of(batch, row, config).itm_partner for row in range(10)]
    shown = {f"{kind}s": [files[partner] for partner in partners]}
    torch.testing.assert_close(
        loaded.match(captions, **shown, batch_size=3), logits.softmax(1)[:, 1], rtol=0, atol=1e-6
    )
    fused = loaded.fuse(captions[0], **shown)
    frames, side = (1, config.data.image_size // 16) if kind == "image" else (3, 3)
    assert len(fused) == 10
    assert fused[0].text.shape[1:] == (32,)
    assert (fused[0].cls.shape, fused[0].patches.shape) == ((frames, 32), (frames, side**2, 32))
    single = loaded.match(captions[0], **{f"{kind}s": files[3]})
    torch.testing.assert_close(single, loaded.match([captions[0]] * 2, **{f"{kind}s": [files[3]] * 2})[:1])


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda m, f: m.encode_image("absent.png"), "absent.png cannot be read"),
        (lambda m, f: m.encode_image(__file__), "its image cannot be decoded"),
        (lambda m, f: m.encode_video(__file__), "its video cannot be opened"),
        (lambda m, f: m.encode_image([f, np.zeros((4, 4, 3))]), "image 1: expected an image of uint8"),
        (lambda m, f: m.encode_video([np.zeros((0, 4, 4, 3), np.uint8)]), "video 0: expected at least one frame"),
        (lambda m, f: m.encode_text(["words", " "]), "got an empty one"),
        (lambda m, f: m.match(["a", "b"], [f, f, f]), "got 2 and 3"),
        (lambda m, f: m.match("a"), "got both or neither"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(run, loaded, call, told):
    with pytest.raises(UserError, match=re.escape(told)):
        call(loaded, run[4]["image"][0][0])


def test_nothing_gives_no_features(loaded):
    assert loaded.encode_text([]).shape == loaded.encode_image([]).shape == (0, 16)


def test_paths_that_hold_no_model_are_sentences(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        sclds.load(tmp_path / "absent")
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        sclds.load(tmp_path)


def test_the_example_of_the_readme_runs(run, monkeypatch, tmp_path, capsys):
    """With the quickstart's run and somebody's image in their places; importing the package alone stays light."""
    root, _, _, _, samples = run
    code = next(c for c in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if "sclds" in c)
    assert len([line for line in code.splitlines() if line.strip()]) == 5
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(root / "run")
    Image.open(samples["image"][0][0]).convert("RGB").save(tmp_path / "dog.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out
    light = "import sys, sclds; print(sorted({'torch', 'transformers', 'nvidia', 'deepspeed'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"
