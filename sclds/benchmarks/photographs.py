"""Generated photographs, for benchmarks that no download precedes.

Noise whose amplitude falls as 1/frequency, as in photographs, the channels correlated, and saved as JPEG at quality 85
(4:2:0). At 500 × 375 that is near 100 kB, as COCO's images have at this size, so entropy decoding has as much to do.
"""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT, QUALITY = 500, 375, 85
WORDS = "a the two small red old man woman dog horse street on in with near riding holding standing table water".split()


def photograph(seed: int) -> bytes:
    """Return a JPEG with the statistics of a photograph of WIDTH × HEIGHT pixels."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
    frequency[0, 0] = 1 / max(WIDTH, HEIGHT)

    def noise() -> Any:
        plane = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((HEIGHT, WIDTH))) / frequency, s=(HEIGHT, WIDTH))
        return plane / plane.std()

    shared = noise()
    pixels = np.stack([shared + 0.3 * noise() for _ in range(3)], -1)
    image = Image.fromarray((pixels / pixels.std() * 55 + 115).clip(0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def write_photographs(folder: Path, count: int) -> int:
    """Write images as files, and with captions as one shard; return the bytes of all images."""
    (folder / "shards").mkdir()
    total = 0
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "shards" / "00000.tar", "w") as tar:
        for number in range(count):
            content = photograph(number)
            total += len(content)
            (folder / f"{number:05d}.jpg").write_bytes(content)
            caption = " ".join(rng.choice(WORDS, 10)).encode()
            for name, part in ((f"{number:05d}.jpg", content), (f"{number:05d}.txt", caption)):
                info = tarfile.TarInfo(name)
                info.size = len(part)
                tar.addfile(info, io.BytesIO(part))
    return total
