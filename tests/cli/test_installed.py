"""The package installed from a source tree works in an empty folder: commands, shipped configurations, training."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("sclds", "kernels", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")
TINY = [
    "data.train=[{name: clips, shards: embedded:clips-train, kind: video}]",
    *("data.video_size=16", "data.frames=2", "data.heldout=[]"),
    *("batch.global_size=8", "batch.group_size=4", "batch.max_micro_size=4"),
    *("model.vision.width=32", "model.vision.layers=1", "model.vision.pretrained_image_size=16"),
    *("model.text.width=32", "model.text.layers=1", "model.fusion.width=32", "model.fusion.layers=1"),
    *("model.projection=16", "schedule.steps=2", "log.every=1", "log.tensorboard=false", "log.pictures_every=0"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install from a copy of the tree, as a source archive has it, into a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    tree = folder / "tree"
    tree.mkdir()
    leftovers = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=leftovers)
        else:
            shutil.copy(source, tree / name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    pip += ["--disable-pip-version-check", "--target", str(folder / "site"), str(tree)]
    done = subprocess.run(pip, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(tree)
    return folder / "site"


@pytest.fixture
def run(site, tmp_path):
    """Return a function that runs a command in an empty folder, where only the installed package is to be found."""
    settings = {"PYTHONPATH": str(site), "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

    def command(*words: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return command


@pytest.mark.slow
def test_commands_and_configurations_are_there(run, site, tmp_path):
    code = "import sclds, scl_kernels; from sclds.config.shipped import shipped_configs as shipped\n"
    code += "print(sclds.__file__, scl_kernels.__file__, *shipped().values(), sep='\\n')"
    package, kernels, *configs = map(Path, run("-c", code).stdout.split())
    assert (package, kernels) == (site / "sclds" / "__init__.py", site / "scl_kernels" / "__init__.py")
    shipped = {path.relative_to(site / "sclds" / "configs") for path in configs}
    assert shipped == {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    assert "prepare" in run(str(site / "bin" / "sclds"), "--help").stdout
    assert json.loads(run("-m", "sclds", "doctor", "--json").stdout)["ready"] is True
    vocabulary = "model.text.vocab_size=50265"  # else the tokenizer is asked, which is not in this package
    planned = run("-m", "sclds", "plan", "--config", "pretrain/scl_base_image", "--json", vocabulary)
    assert json.loads(planned.stdout)["name"] == "scl_base_image"
    assert list(tmp_path.iterdir()) == []


def assert_the_example_of_the_readme_runs(run, folder):
    """Five lines of Python, with this run in the place of the quickstart's, and any image."""
    code = next(c for c in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if "sclds" in c)
    (folder / "runs").mkdir()
    (folder / "runs" / "quickstart").symlink_to(folder / "run")
    Image.new("RGB", (30, 20), "brown").save(folder / "dog.jpg")
    assert run("-c", code).stdout.count("tensor(") == 2


@pytest.mark.multiprocess
@pytest.mark.slow
def test_the_launcher_trains_on_the_embedded_data_and_the_command_alone_shows_the_result(run, site, tmp_path):
    launcher = [str(Path(sys.executable).parent / "deepspeed"), "--num_gpus", "1", "--module", "sclds.cli.train"]
    run(*launcher, "--config", "quickstart", "run_dir=run", *TINY)
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["latest", "step-0000002"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "2 steps" in page
    assert "launchers/" not in page, "there are none beside an installed package"
    assert_the_example_of_the_readme_runs(run, tmp_path)
    assert (
        "This run is done" in run("-m", "sclds", "train", "--config", "run/config.yaml", "data.decode_threads=2").stdout
    )
