"""Reading and decoding beside Pillow in a torch DataLoader, in turns, on the same cores.

Both sides read the same generated images (`sclds.benchmarks.photographs`), draw the same crops by the same keys, scale
them to 288 pixels with the same filter, and end in normalized float32: patches here, (3, 288, 288) there.
"""

import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sclds.batch import pack, recipe_of
from sclds.benchmarks.loader_cost import WAYS, host_seconds
from sclds.benchmarks.photographs import HEIGHT, WIDTH, write_photographs
from sclds.benchmarks.rows import Row, quantiles, write
from sclds.config import Config, DataConfig, DatasetConfig
from sclds.config.errors import UserError
from sclds.costs.clusters import cluster_of, known_kinds
from sclds.costs.plan import mix_of
from sclds.costs.search import as_configured
from sclds.data.keys import generator
from sclds.data.loader import TrainingBatches
from sclds.data.media.decode import Decoder
from sclds.data.media.geometry import training_window
from sclds.data.samples import SampleMaker
from sclds.data.storage.shards import SampleIndex, cache_of, open_index
from sclds.data.tokenizer import Tokenizer, load_tokenizer

PROVIDERS = ("sclds", "usual")
IMAGES = 96
"""Different images; they are read again and again from the page cache, by both sides."""
PLANNED_GPUS = 64


class Rate(NamedTuple):
    """What one turn of one side took."""

    images: int
    seconds: float
    core_seconds: float
    """Of processor time, over all threads and processes."""


class Stages(NamedTuple):
    """Processor seconds per image."""

    read: float
    """Reading, judging and drawing the crop."""
    decode: float
    text: float
    """Caption, masks and packing."""


class Sizes(NamedTuple):
    """How much is measured."""

    rounds: int
    """Timed turns of each side."""
    batches: int
    """Batches of a turn."""
    batch: int
    """Images of a batch."""
    cores: int
    """Cores, workers and decode threads; 0 takes all."""
    samples: int
    """To watch the memory for."""


class Found(NamedTuple):
    """What was measured."""

    rows: list[Row]
    """Of the CSV: first images per second of both sides, then their ratio, and so on."""
    stages: Stages
    text_share: float
    """Processor time of text, masks and packing, as a share of that of reading and decoding."""
    loader_rate: float
    """Samples a second of the whole loader."""
    resident: int
    """Bytes resident after the first tenth of the samples."""
    growth: int
    """Bytes more at most from then on."""
    mean_bytes: int
    """Of an image."""
    cores: int
    """That were used."""
    host: dict[str, float]
    """Processor seconds of the training process for a sample, by who makes the batches."""


def benchmark_config(folder: Path, batch: int, cores: int) -> Config:
    """Return the base model's data settings over the written images."""
    dataset = DatasetConfig(name="photographs", shards=str(folder / "shards"))
    data = DataConfig(train=[dataset], tokenizer="embedded", decode_threads=cores)
    settings = {"name": "data", "data": data, "batch": {"global_size": batch, "max_micro_size": batch}}
    return Config.model_validate(settings)


class UsualImages(Dataset[Tensor]):
    """Files through Pillow to tensors, as a training script with torchvision's transforms does it.

    Args:
        folder: Of the files.
        config: Sizes, crops, normalization.
        count: Files.
        length: Images of an epoch.
    """

    def __init__(self, folder: Path, config: Config, count: int, length: int):
        self._folder, self._config, self._count, self._length = folder, config, count, length
        self._mean = torch.tensor(config.data.mean).view(3, 1, 1)
        self._std = torch.tensor(config.data.std).view(3, 1, 1)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> Tensor:
        data = self._config.data
        image = Image.open(io.BytesIO((self._folder / f"{number % self._count:05d}.jpg").read_bytes())).convert("RGB")
        window = training_window(data, *image.size, generator(self._config.seed, "window", number))
        if window.region is not None:
            top, left, height, width = window.region
            image = image.crop((left, top, left + width, top + height))
        scaled = image.resize((data.image_size, data.image_size), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(scaled)).permute(2, 0, 1).contiguous()
        return pixels.float().div(255).sub_(self._mean).div_(self._std)


def _with_clock(images: list[Tensor]) -> tuple[Tensor, int, float]:
    """Collate a batch; say which process did, and how much processor time it has used so far."""
    return torch.stack(images), os.getpid(), time.process_time()


class Usual:
    """Turns of the usual loader; its workers live as long as this object and rest between turns."""

    def __init__(self, folder: Path, config: Config, count: int, batches: int, workers: int):
        size = config.batch.global_size
        images = UsualImages(folder, config, count, batches * size)
        self._loader = DataLoader(images, size, num_workers=workers, collate_fn=_with_clock, persistent_workers=True)
        self._used: dict[int, float] = {}

    def __call__(self) -> Rate:
        """Take one epoch."""
        own, begun, images = time.process_time(), time.perf_counter(), 0
        before = dict(self._used)
        for pixels, process, used in self._loader:
            images += len(pixels)
            self._used[process] = used
        seconds = time.perf_counter() - begun
        workers = sum(used - before.get(process, 0.0) for process, used in self._used.items())
        return Rate(images, seconds, workers + time.process_time() - own)


class Ours:
    """Turns of this package's reading and decoding, in one thread and the decoder's."""

    def __init__(self, config: Config, index: SampleIndex, tokenizer: Tokenizer, batches: int):
        self._config, self._index, self._batches = config, index, batches
        self._maker = SampleMaker(config, tokenizer, index)
        self._decoder = Decoder(config, config.batch.global_size)
        self._turn = 0

    def _images(self) -> Iterator[list[Any]]:
        """Yield batches of samples that are read, but for their text."""
        size = self._config.batch.global_size
        for batch in range(self._batches):
            self._turn += 1
            numbers = range(batch * size, (batch + 1) * size)
            yield [self._maker.encoded(n % len(self._index), (self._turn, n)) for n in numbers]

    def __call__(self) -> Rate:
        """Decode one turn's batches."""
        own, begun, images = time.process_time(), time.perf_counter(), 0
        for samples in self._images():
            self._decoder(samples)
            images += len(samples)
        return Rate(images, time.perf_counter() - begun, time.process_time() - own)

    def stages(self) -> Stages:
        """Take one turn stage by stage, text and packing included."""
        config, clock = self._config, [time.process_time()]
        seconds = np.zeros(3)
        for samples in self._images():
            clock.append(time.process_time())
            patches = self._decoder(samples)
            clock.append(time.process_time())
            rows = range(len(samples))
            views = [replace(self._maker.views(n % len(self._index), (0, n)), itm_partner=n) for n in rows]
            pack(views, patches, replace(recipe_of(config, pad_id=1), group_size=len(views)))
            clock.append(time.process_time())
            seconds += np.diff(clock)
            clock = clock[-1:]
        return Stages(*(seconds / (self._batches * config.batch.global_size)).tolist())

    def close(self) -> None:
        """End the threads."""
        self._decoder.close()
        self._maker.close()


def measure(sides: dict[str, Callable[[], Rate]], rounds: int) -> dict[str, list[Rate]]:
    """Return every turn of every side, after an untimed one each; alternating, both see the same machine."""
    for side in sides.values():
        side()
    found: dict[str, list[Rate]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in sorted(sides, reverse=bool(turn % 2)):
            found[name].append(sides[name]())
    return found


def resident_growth(config: Config, tokenizer: Tokenizer, samples: int) -> tuple[float, int, int]:
    """Run the whole loader, text and packing included, and watch its memory.

    Args:
        config: The data.
        tokenizer: Encodes captions.
        samples: To load; the first tenth fills buffers and is not counted.

    Returns:
        Samples a second, bytes resident after the first tenth, and how many more at most from then on.
    """
    steps = max(10, samples // config.batch.global_size)
    batches = iter(TrainingBatches(config, tokenizer, 0, 1, config.batch.global_size, 1))
    resident = []
    begun = time.perf_counter()
    try:
        for step in range(steps):
            next(batches)
            if step >= steps // 10:
                resident.append(_resident_bytes())
    finally:
        batches.close()  # type: ignore[attr-defined]
    rate = steps * config.batch.global_size / (time.perf_counter() - begun)
    return rate, resident[0], max(resident) - resident[0]


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def rows_of(found: dict[str, list[Rate]], cores: int, settings: dict[str, Any]) -> list[Row]:
    """Return images per second and core, processor time per image, and both ratios, turn by turn."""
    measured: list[tuple[str, str, list[float]]] = []
    for metric, value in (
        ("images_per_second_per_core", lambda rate: rate.images / rate.seconds / cores),
        ("images_per_busy_core_second", lambda rate: rate.images / rate.core_seconds),
    ):
        values = {name: [value(rate) for rate in found[name]] for name in PROVIDERS}
        measured += [(name, metric, x) for name, x in values.items()]
        ratios = [a / b for a, b in zip(values["sclds"], values["usual"], strict=True)]
        measured.append(("sclds/usual", f"ratio_of_{metric}", ratios))
    return [_row(name, metric, values, settings) for name, metric, values in measured]


def _row(provider: str, metric: str, values: list[float], settings: dict[str, Any]) -> Row:
    import nvidia.dali
    import PIL

    versions = f"torch {torch.__version__}, DALI {nvidia.dali.__version__}, Pillow {PIL.__version__}"
    device = f"cpu ({settings['cores']} cores)"
    return Row(provider, metric, *quantiles(values), len(values), json.dumps(settings), device, versions)


def planned_pace(gpu: str) -> float:
    """Return the images a second that one GPU takes of the base model, as planned."""
    dataset = DatasetConfig(name="photographs", shards="planned")
    settings = {"name": "base", "data": {"train": [dataset]}, "model": {"text": {"vocab_size": 50265}}}
    base = Config.model_validate(settings)
    planned = as_configured(base, cluster_of(known_kinds(), gpu, PLANNED_GPUS), mix_of(base))
    return planned.samples_per_second / PLANNED_GPUS


def cores_per_gpu(stages: Stages) -> list[str]:
    """Return sentences on the cores that keep one GPU busy with images at the base model's planned pace."""
    lines = []
    for gpu in ("a100", "h100"):
        pace = planned_pace(gpu)
        lines.append(
            f"{gpu.upper()}: {pace:.0f} images/s planned (base model, 288 px) cost {pace * sum(stages):.1f} cores "
            f"with data.device=cpu; with mixed {pace * (stages.read + stages.text):.1f} (estimate: all but decoding)"
        )
    return lines


@contextmanager
def _on_cores(count: int) -> Iterator[None]:
    """Keep this process, its threads and its children on some of its cores."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def compare_reading(sizes: Sizes, folder: Path) -> Found:
    """Measure both sides, the share of text, and memory; write data.csv and data.png.

    Raises:
        UserError: If a number makes no benchmark.
    """
    available = len(os.sched_getaffinity(0))
    cores = sizes.cores or available
    if min(sizes.rounds, sizes.batches, sizes.batch, sizes.samples) < 1:
        raise UserError("give --rounds, --batches, --batch and --samples of at least 1")
    if not 1 <= cores <= available:
        raise UserError(f"--cores {cores} is not between 1 and the {available} cores that this process may use")
    if sizes.batch % 8:
        raise UserError(f"--batch {sizes.batch} is not a multiple of 8, the neighbors that travel together")
    with tempfile.TemporaryDirectory() as images, _on_cores(cores):
        found = _measured(Path(images), sizes._replace(cores=cores))
    title = f"500 × 375 JPEG to 288 pixels, {found.rows[2].median:.2f}×: {found.rows[0].device}"
    write(found.rows, folder, "data", title)
    return found


def _measured(folder: Path, sizes: Sizes) -> Found:
    """Measure everything, with images that are written into `folder`."""
    mean_bytes = write_photographs(folder, IMAGES) // IMAGES
    settings = {
        "width": WIDTH,
        "height": HEIGHT,
        "mean_bytes": mean_bytes,
        "image_size": 288,
        "cores": sizes.cores,
        "batch": sizes.batch,
        "batches": sizes.batches,
    }
    config = benchmark_config(folder, sizes.batch, sizes.cores)
    tokenizer = load_tokenizer("embedded")
    usual = Usual(folder, config, IMAGES, sizes.batches, sizes.cores)
    ours = Ours(config, open_index(config.data.train, cache_of(config.data)), tokenizer, sizes.batches)
    found = measure({"usual": usual, "sclds": ours}, sizes.rounds)
    stages = ours.stages()
    ours.close()
    share = stages.text / (stages.read + stages.decode)
    host = {name: host_seconds(config, tokenizer, sizes.batches, apart) for name, apart in WAYS.items()}
    rate, resident, growth = resident_growth(config, tokenizer, sizes.samples)
    rows = [
        *rows_of(found, sizes.cores, settings),
        _row("sclds", "text_share_of_decoding", [share], settings),
        *(_row(name, "host_microseconds_per_sample", [1e6 * seconds], settings) for name, seconds in host.items()),
        _row("sclds", "loader_samples_per_second", [rate], settings),
        _row("sclds", "resident_growth_bytes", [float(growth)], settings | {"samples": sizes.samples}),
    ]
    return Found(rows, stages, share, rate, resident, growth, mean_bytes, sizes.cores, host)
