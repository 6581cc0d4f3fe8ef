"""Exported folders: where this package is not installed they give the features and figures of held-out evaluation."""

import ast
import io
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import yaml
from PIL import Image
from torch.nn.functional import normalize
from transformers import AutoModel, AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast

import sclds
from sclds.cli.main import main
from sclds.data.media.images import read_image
from sclds.data.media.pipeline import build_pipeline, feeds, source_of
from sclds.data.media.videos import read_frames
from sclds.data.samples import HELDOUT, SampleMaker
from sclds.data.storage.shards import open_index
from sclds.data.tokenizer import load_tokenizer
from sclds.evaluation.retrieval import rank_metrics
from sclds.interop.folder import read_folder
from sclds.interop.huggingface import read_exported
from sclds.reference import standalone
from sclds.reference.standalone import image_processing_scl
from tests.data.media.more_image_kinds import KINDS
from tests.interop.runs import trained_run

ELSEWHERE = Path(__file__).with_name("elsewhere.py")
TOWERS = {
    "clip": ["data.image_size=64", "data.video_size=48", "data.frames=3"],
    "siglip2": [
        *("model.vision.type=siglip2", "model.vision.layer_norm_eps=1e-6", "model.vision.max_frames=4"),
        *("data.mean=[0.5,0.5,0.5]", "data.std=[0.5,0.5,0.5]", "data.image_size=80"),
    ],
    "perception_encoder": ["model.vision.type=perception_encoder", "data.mean=[0.5,0.4,0.3]", "data.video_size=80"],
}


def written_samples(config, folder):
    """Write the held-out samples that evaluation ranks as files that anybody can open."""
    for name, dataset in zip(("images", "videos"), config.data.heldout, strict=True):
        index, rows = open_index([dataset]), []
        maker = SampleMaker(config, load_tokenizer("embedded"), index)
        for number in range(config.evaluation.max_samples):
            sample = maker.encoded(number, HELDOUT)
            if name == "images":
                file = f"{number}.webp"
                (folder / file).write_bytes(sample.content)
            else:
                file = f"{number}.npy"
                np.save(folder / file, decoded_frames(sample, config))
            # as somebody may write it; cleaned, it is what training saw
            caption = " \t" + maker.views(number, HELDOUT).caption.replace(" ", "&#32;\n", 1)
            rows.append({"file": file, "caption": caption})
        (folder / f"{name}.json").write_text(json.dumps(rows))
        maker.close()


def decoded_frames(sample, config):
    """Return the frames of a video as training decodes them: DALI and FFmpeg turn YUV into RGB differently."""
    source = source_of(sample, config.data)
    if source == "frames":
        return read_frames(sample.content, sample.frames.tolist())
    arguments = (source, config.data, config.data.video_size)
    (output,) = build_pipeline(*arguments, 1, None).run(**feeds(*arguments, [sample], [sample.content]))
    return np.array(output[0])


@pytest.fixture(scope="module", params=TOWERS)
def exported(request, tmp_path_factory):
    """A run, exported by way of a folder of weights, and what it gives in a process that cannot import this package."""
    root = tmp_path_factory.mktemp("export")
    config, model, found = trained_run(root / "run", *TOWERS[request.param])
    assert main(["convert", "run", str(root / "run"), str(root / "weights")]) == 0
    assert main(["convert", "huggingface", str(root / "weights"), str(root / "hub")]) == 0
    data = root / "data"
    data.mkdir()
    written_samples(config, data)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(root / "cache"), "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-I", str(ELSEWHERE), str(root / "hub"), str(data)]
    done = subprocess.run(line, cwd=data, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return root, config, model, found, np.load(data / "found.npz"), json.loads((data / "found.json").read_text())


def test_elsewhere_features_and_figures_are_those_of_held_out_evaluation(exported):
    root, _, _, evaluated, found, _ = exported
    results = json.loads((root / "run" / "results.json").read_text())["retrieval"]
    for name, kind in (("images", "image"), ("videos", "video")):
        text, vision = (torch.from_numpy(found[f"{name}_{part}"]) for part in ("text", "vision"))
        for ours, theirs in ((evaluated[kind].text, text), (evaluated[kind].vision, vision)):
            torch.testing.assert_close(theirs, torch.cat(ours), rtol=1e-5, atol=1e-5)
        assert rank_metrics(text, vision) == results[kind]
        for part in ("text", "vision"):
            pairs = torch.from_numpy(found[f"{name}_{part}_of_pairs"])
            torch.testing.assert_close(pairs, text if part == "text" else vision, rtol=1e-5, atol=1e-5)


def test_elsewhere_nothing_of_this_package_was_there(exported):
    _, config, _, _, _, told = exported
    assert not {"sclds", "scl_kernels", "deepspeed"} & set(told["loaded"])
    assert (told["kind"], told["longest"], told["push"]) == ("scl", config.data.max_text_tokens, True)


def test_an_export_comes_back_as_it_was(exported):
    root, config, model, *_ = exported
    assert main(["convert", "from-huggingface", str(root / "hub"), str(root / "back")]) == 0
    before, after = read_folder(root / "weights"), read_folder(root / "back")
    assert after.config == before.config
    assert after.tokenizer == before.tokenizer
    assert after.preprocessing == before.preprocessing.model_copy(update={"tokenizer": str(root / "hub")})
    for name, tensor in model.state_dict().items():
        assert torch.equal(after.weights[name], tensor), name
    for name in ("image_size", "video_size", "frames", "mean", "std", "max_text_tokens"):
        assert getattr(before.preprocessing, name) == getattr(config.data, name)
    for key in ("training_data", "results"):
        assert getattr(after.origin, key) == getattr(before.origin, key) != []


def test_an_export_that_transformers_saved_again_is_one(exported, tmp_path):
    """Fine-tuned elsewhere, say: code goes along, and this package reads it, too."""
    root, *_ = exported
    model = AutoModel.from_pretrained(root / "hub", trust_remote_code=True)
    model.save_pretrained(tmp_path / "again")
    AutoProcessor.from_pretrained(root / "hub", trust_remote_code=True).save_pretrained(tmp_path / "again")
    before, after = read_exported(root / "hub"), read_exported(tmp_path / "again")
    assert after.preprocessing == before.preprocessing.model_copy(update={"tokenizer": str(tmp_path / "again")})
    assert all(torch.equal(after.weights[name], tensor) for name, tensor in before.weights.items())
    assert AutoModel.from_pretrained(tmp_path / "again", trust_remote_code=True).config.architecture


def test_files_have_the_mode_that_the_umask_gives(exported, tmp_path):
    root, *_ = exported
    (tmp_path / "new").touch()
    wanted = stat.S_IMODE((tmp_path / "new").stat().st_mode)
    for folder in ("weights", "hub"):
        files = [file for file in (root / folder).rglob("*") if file.is_file()]
        assert {file.name for file in files if stat.S_IMODE(file.stat().st_mode) != wanted} == set()


def test_the_card_names_license_data_and_results(exported, tmp_path):
    root, *_ = exported
    _, front, text = (root / "hub" / "README.md").read_text().split("---\n", 2)
    front = yaml.safe_load(front)
    assert (front["license"], front["license_name"], front["library_name"]) == ("other", "not-chosen", "transformers")
    results = json.loads((root / "run" / "results.json").read_text())["retrieval"]
    values = [metric["value"] for row in front["model-index"][0]["results"] for metric in row["metrics"]]
    assert values == [row[key] for kind in results.values() for row in kind.values() for key in ("r1", "r5", "r10")]
    assert "Pictures, clips." in text
    assert "trust_remote_code=True" in text
    assert main(["convert", "huggingface", str(root / "run"), str(tmp_path / "hub"), "--license", "mit"]) == 0
    assert "\nlicense: mit\n" in (tmp_path / "hub" / "README.md").read_text()


def test_exports_that_cannot_be_are_sentences(exported, tmp_path, capsys):
    root, *_ = exported
    assert main(["convert", "huggingface", str(root / "weights"), str(root / "hub")]) == 2
    assert "exists already" in capsys.readouterr().err
    (tmp_path / "hub").mkdir()
    for file in (root / "hub").iterdir():
        (tmp_path / "hub" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "hub" / "preprocessor_config.json").unlink()
    assert main(["convert", "from-huggingface", str(tmp_path / "hub"), str(tmp_path / "back")]) == 2
    assert "is no complete export" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()
    assert read_exported(root / "hub").weights


def test_the_files_that_go_along_import_nothing_of_this_package(exported):
    root, *_ = exported
    names = sorted(p.name for p in Path(standalone.__file__).parent.glob("*.py") if p.name != "__init__.py")
    assert names == sorted((*standalone.FILES, standalone.CAPTIONS)) == sorted(p.name for p in root.glob("hub/*.py"))
    allowed = {"torch", "transformers", "numpy", "PIL", *sys.stdlib_module_names}
    for name in names:
        for node in ast.walk(ast.parse((root / "hub" / name).read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules.append(node.module)
            assert {module.split(".")[0] for module in modules} <= allowed, name


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8)])
def test_images_that_are_none_are_sentences(image):
    with pytest.raises(ValueError, match="expected an image of uint8"):
        image_processing_scl.SCLImageProcessor()(image)


def test_an_orientation_that_nobody_can_read_turns_nothing():
    content = KINDS["PNG: damaged EXIF in a text"]()
    shown = image_processing_scl.rgb(Image.open(io.BytesIO(content)))
    assert np.array_equal(shown, read_image(content))


def lower_casing(folder):
    """Save a tokenizer of somebody else's: a few words in lower case, its own special tokens, no embedded one."""
    words = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "a", "red", "house", "dog"]
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    backend.normalizer = tokenizers.normalizers.Lowercase()
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "cls", "sep", "mask", "unk")}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
    return folder


def test_a_tokenizer_keeps_its_case_its_limit_and_its_padding(tmp_path):
    """Its own settings would put no [CLS] around a text; the run did, and so does what is exported."""
    words = lower_casing(tmp_path / "words")
    settings = ["data.heldout=[]", "data.max_text_tokens=6", f"data.tokenizer={words}"]
    _, model, _ = trained_run(tmp_path / "run", *settings)
    assert main(["convert", "run", str(tmp_path / "run"), str(tmp_path / "weights")]) == 0
    shutil.rmtree(words)
    assert main(["convert", "huggingface", str(tmp_path / "weights"), str(tmp_path / "hub")]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hub")
    found = tokenizer(["A RED dog", "a house a dog a house a dog"], padding=True, truncation=True)["input_ids"]
    assert found == [[1, 5, 6, 8, 2, 0], [1, 5, 7, 5, 8, 2]]
    exported = AutoModel.from_pretrained(tmp_path / "hub", trust_remote_code=True).eval()
    assert exported.config.pad_token_id == 0
    loaded = sclds.load(tmp_path / "weights")
    with torch.no_grad():
        features = normalize(exported.get_text_features(torch.tensor(found)), dim=1)
    torch.testing.assert_close(loaded.encode_text(["A RED dog", "a house a dog a house a dog"]), features)
    assert torch.equal(exported.scl.state_dict()["itm_score.weight"], model.state_dict()["itm_score.weight"])
