from pathlib import Path

import pytest

from sclds.batch.sizes import Sizes
from sclds.config.reading import load_config
from sclds.costs.counts import packed_forward
from sclds.costs.utilization import FlopCounter, data_sheet_flops

CONFIG = Path(__file__).parents[2] / "configs" / "pretrain" / "scl_base_mixed.yaml"


def test_flops_of_a_batch_are_those_of_its_kinds_and_texts() -> None:
    config = load_config(CONFIG)
    image, video = (sum(packed_forward(config, kind, n, 50265).values()) for kind, n in (("image", 12), ("video", 20)))
    sizes = Sizes(images=3, videos=2, image_text=36, video_text=40)
    once, recomputed = FlopCounter(config, 1).of(sizes), FlopCounter(config, 2).of(sizes)
    assert once.model == once.hardware == recomputed.model == 3 * (3 * image + 2 * video)
    assert recomputed.hardware == 4 * (3 * image + 2 * video), "the features of the whole batch come first"
    assert FlopCounter(config, 1).of(Sizes()).model == 0


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA L40S", None),
        ("", None),
    ],
)
def test_a_rate_is_of_the_card_itself_or_unknown(name: str, rate: float | None) -> None:
    assert data_sheet_flops(name, "bf16") == rate
    # TF32 of H100's white paper is a little more than half
    assert data_sheet_flops(name, "fp32") == (rate and pytest.approx(rate / 2, rel=1e-3))
