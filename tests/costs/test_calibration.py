"""A profile's figures become those of its kind: predictions of the profiled run are then what it took."""

import json

import pytest

from sclds.cli.main import main
from sclds.config.errors import UserError
from sclds.config.reading import load_config
from sclds.costs.calibration import calibrated
from sclds.costs.clusters import cluster_of, known_kinds
from sclds.costs.plan import mix_of
from sclds.costs.search import as_configured

KINDS = known_kinds()
CONFIG = load_config("pretrain/scl_base_image")
CLUSTER = cluster_of(KINDS, "h100", 16)


@pytest.fixture
def profile():
    """A profile as `sclds profile` writes it: 16 H100 that took 1.5 of what was predicted of their devices."""
    own = as_configured(CONFIG, CLUSTER, mix_of(CONFIG))
    engine = own.counts.launches["engine"] / sum(own.counts.launches.values())
    return {
        "kind": "profile",
        "version": 1,
        "name": CONFIG.name,
        "environment": {
            "processes": 16,
            "device": "cuda",
            "hosts": [{"name": f"host{rank // 8}"} for rank in range(16)],
        },
        "config": CONFIG.model_dump(mode="json"),
        "variants": [
            {
                "name": "zero_1",
                "overrides": ["engine.zero_stage=1"],
                "samples_per_second": None,
                "failed": "exit code 1",
            },
            {
                "name": "configured",
                "overrides": [],
                "samples_per_second": own.samples_per_second / 1.5,
                "peak_flops": 16 * 700e12,
                "host_seconds": 0.3 * own.work.host_seconds * (1 - engine),
            },
        ],
    }


def written(profile, folder):
    (folder / "profile.json").write_text(json.dumps(profile))
    return folder


def test_the_profiled_run_is_predicted_as_it_was_measured(profile, tmp_path):
    kinds, told = calibrated(KINDS, "h100", written(profile, tmp_path), mix_of)
    kind = kinds["h100"]
    assert kind.matmul_share == pytest.approx(700 / 989)
    assert kind.host_factor == pytest.approx(0.3)
    assert kind.device_factor > 1.5  # the measured peak is above the table's, so that the rest is more
    found = as_configured(CONFIG, cluster_of(kinds, "h100", 16), mix_of(CONFIG))
    assert found.samples_per_second == pytest.approx(profile["variants"][1]["samples_per_second"], rel=1e-6)
    assert all(str(tmp_path) in kind.sources[name] for name in ("matmul_share", "host_factor", "device_factor"))
    assert kinds["a100-80"] == KINDS["a100-80"]
    assert [word for word in ("peak", "host", "device") if not any(word in line for line in told)] == []


def test_where_the_host_decides_nothing_is_learned_of_the_device(profile, tmp_path):
    own = as_configured(CONFIG, CLUSTER, mix_of(CONFIG))
    measured = profile["variants"][1]
    measured["host_seconds"] *= 400
    measured["samples_per_second"] = CONFIG.batch.global_size / (50 * own.work.host_seconds)
    kinds, told = calibrated(KINDS, "h100", written(profile, tmp_path), mix_of)
    assert kinds["h100"].device_factor == 1
    assert any("nothing of the device" in line for line in told)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "results"}, "is no profile"),
        ({"version": 2}, "version 2; this program reads version 1"),
        ({"variants": []}, "holds no variants"),
        ({"variants": [{"name": "configured", "samples_per_second": None}]}, "no variant with samples_per_second"),
        ({"environment": {"processes": 2, "device": "cpu", "hosts": ["a", "a"]}}, "ran on cpu, which is no h100"),
    ],
)
def test_a_profile_that_cannot_be_used_is_a_sentence(change, says, profile, tmp_path):
    with pytest.raises(UserError, match=says):
        calibrated(KINDS, "h100", written(profile | change, tmp_path), mix_of)


def test_a_profile_of_a_faster_kind_is_refused(profile, tmp_path):
    with pytest.raises(UserError, match="more than the 312 of a100-80's data sheet"):
        calibrated(KINDS, "a100-80", written(profile, tmp_path), mix_of)


def test_the_command_says_what_it_took(profile, tmp_path, capsys):
    line = [
        "plan",
        "--config",
        "pretrain/scl_base_image",
        "--gpus",
        "16",
        "--calibrate",
        str(written(profile, tmp_path)),
    ]
    assert main(line) == 0
    out = capsys.readouterr().out
    assert "Calibrated by" in out
    assert "- the host takes 0.30 of its predicted time" in out
    (tmp_path / "profile.json").write_text("{")
    assert main(line) == 2
    assert "cannot be read as JSON" in capsys.readouterr().err
