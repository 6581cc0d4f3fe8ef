from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from sclds.batch.sizes import Sizes, sizes_of
from sclds.config.reading import load_config
from sclds.costs.counts import packed_forward
from sclds.costs.utilization import FlopCounter, data_sheet_flops
from sclds.model import flops
from sclds.tasks import TASKS
from tests.model.samples import GRIDS, PATCH, model_of
from tests.tasks.test_model import asked_together, assembler, examples, model_for, pixels

CONFIG = Path(__file__).parents[2] / "configs" / "pretrain" / "scl_base_mixed.yaml"


def test_flops_of_a_batch_are_those_of_its_kinds_and_texts() -> None:
    config = load_config(CONFIG)
    image, video = (sum(packed_forward(config, kind, n, 50265).values()) for kind, n in (("image", 12), ("video", 20)))
    sizes = Sizes(images=3, videos=2, texts=5, image_text=36, video_text=40)
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


@pytest.mark.parametrize(
    ("name", "asked", "videos"),
    [
        ("vqa", [1, 1], 0),
        ("vqa", [3, 1, 5], 0),
        ("snli_ve", [4], 0),
        ("nlvr2", [2, 2], 0),
        ("vqa", [2, 2, 2], 1),
        ("vqa", [3, 3], 2),
    ],
)
def test_flops_of_what_is_asked_about_an_image_together(
    name: str, asked: list[int], videos: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The linear maps of a real forward are those counted, and that to the classes, which is left out of the count."""
    made = assembler(name)
    kinds = [("image", 1)] * (len(asked) - videos) + [("video", made._config.data.frames)] * videos
    texts = examples(name, [10] * sum(asked), [kind for kind, n in zip(kinds, asked, strict=True) for _ in range(n)])
    shown = asked_together(texts, asked)
    batch = made._pack(shown, pixels(shown, TASKS[name].images))
    model = model_for(name)
    with FlopCounterMode(display=False) as counter:
        model(batch)
    measured = sum(v for op, v in counter.get_flop_counts()["Global"].items() if str(op) in ("aten.addmm", "aten.mm"))
    monkeypatch.setattr(flops, "attention", lambda *_: 0)
    data = made._config.data.model_copy(update={"image_size": GRIDS[0] * PATCH, "video_size": GRIDS[1] * PATCH})
    config = made._config.model_copy(update={"model": model_of().config, "data": data})
    per_image = FlopCounter(config, 1).of(sizes_of(batch)).model / 3
    counted = per_image / TASKS[name].images
    to_classes = 2 * sum(asked) * model.task_head.out.weight.numel()
    assert measured - to_classes == pytest.approx(counted, rel=1e-9)
