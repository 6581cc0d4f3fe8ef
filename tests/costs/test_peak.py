from pathlib import Path

import pytest
import torch

from sclds.config.reading import load_config
from sclds.costs import matmul, peak
from sclds.costs.counts import packed_forward

CONFIGS = Path(__file__).parents[2] / "configs"


def test_peak_is_a_plausible_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "CPU_SIZE", 128)
    assert 1e7 < matmul.measure_peak_flops(torch.float32, torch.device("cpu")) < 1e13


def test_training_is_three_forwards_or_four() -> None:
    config = load_config(CONFIGS / "pretrain" / "scl_base_image.yaml")
    forward = sum(packed_forward(config, "image", 12, 50265).values())
    assert peak.training_flops(config, 64, 12) == 3 * forward
    assert peak.training_flops(config, 32, 12) == 4 * forward  # accumulation: features of the whole batch come first


def test_shares_without_shards_follow_the_weights() -> None:
    config = load_config(CONFIGS / "pretrain" / "scl_base_mixed.yaml")
    assert peak.sample_shares(config) == pytest.approx({"image": 0.8, "video": 0.2})


def test_the_matrices_hold_random_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ones a GPU multiplies more a second than of anything that is trained with."""
    multiplied = []
    monkeypatch.setattr(matmul, "CPU_SIZE", 64)
    monkeypatch.setattr(matmul.torch, "mm", lambda *matrices: multiplied.append(matrices))
    matmul.measure_peak_flops(torch.float32)
    for matrix in multiplied[0]:
        assert matrix.unique().numel() > 0.9 * matrix.numel()
        assert float(matrix.std()) == pytest.approx(1, abs=0.1)
