"""Every kind of image is what Pillow makes of it, upright and in RGB; DALI decodes only kinds proven to be equal."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from sclds.data.media.decode import Decoder, Encoded
from sclds.data.media.geometry import Region, Window
from sclds.data.media.inspection import inspect
from sclds.data.media.pipeline import source_of
from sclds.data.storage.shards import BadSampleError
from sclds.data.storage.tar_members import EXTENSIONS

from ..synthetic import image_members
from .image_kinds import RGB, chunk, exif, jpeg, photo, png, saved, text
from .more_image_kinds import KINDS, RGBA, STRANGERS, bmp, masked
from .test_decode import FIRST, SIZE, pixels


@pytest.fixture
def config(make_config):
    return make_config([image_members(["a", "b"])], [], {"global_size": 2, "group_size": 2})


def defined(content: bytes) -> Image.Image:
    """Pillow's image: upright, where it can read the orientation; the upper 8 of 16 bits; transparency dropped."""
    image = Image.open(io.BytesIO(content))
    image.load()
    try:
        turned = ImageOps.exif_transpose(image)
    except ValueError:  # texts that are no EXIF
        turned = image
    if turned.mode.startswith("I;16"):
        turned = Image.fromarray((np.asarray(turned) >> 8).astype(np.uint8))
    return turned.convert("RGB")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_kind_of_image_is_what_pillow_makes_of_it(config):
    """All in one batch: whole, and a region of the image as shown."""
    assert len(KINDS) > 150
    contents = {name: make() for name, make in KINDS.items()}
    shown = {name: defined(content) for name, content in contents.items()}
    infos = {name: inspect("image", content) for name, content in contents.items()}
    for name, info in infos.items():
        assert (info.width, info.height) == shown[name].size, name
    for region in (None, Region(5, 3, 15, 25)):
        samples = [Encoded("image", contents[name], infos[name], FIRST, Window(region)) for name in KINDS]
        for name, rows in zip(KINDS, Decoder(config, len(samples)).each(samples), strict=True):
            assert rows is not None, name
            seen = shown[name] if region is None else shown[name].crop((3, 5, 28, 20))
            expected = np.asarray(seen.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32)
            assert np.abs(pixels(config, rows)[0] - expected).max() <= 1.5, name


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dali_gets_only_kinds_whose_pixels_are_pillows(config):
    """To the last bit, on the CPU; the GPU's definition takes the same kinds."""
    import nvidia.dali.fn as fn
    from nvidia.dali import pipeline_def, types

    @pipeline_def(batch_size=1, num_threads=1, device_id=None, exec_async=False, exec_pipelined=False)
    def whole():
        content = fn.external_source(name="content", dtype=types.UINT8, ndim=1)
        return fn.decoders.image(content, device="cpu", output_type=types.RGB, adjust_orientation=False)

    pipeline, on_gpu = whole(prefetch_queue_depth=1), config.data.model_copy(update={"device": "mixed"})
    plain = []
    for name, make in KINDS.items():
        sample = Encoded("image", make(), inspect("image", make()), FIRST)
        assert source_of(sample, config.data) == source_of(sample, on_gpu), name
        if source_of(sample, on_gpu) == "image":
            plain.append(name)
            (output,) = pipeline.run(content=[np.frombuffer(sample.content, np.uint8)])
            assert np.array_equal(np.asarray(output[0]), np.asarray(defined(sample.content))), name
    assert {"JPEG: 4:2:0", "JPEG: grey", "JPEG: turned 1", "PNG: RGB", "PNG: palette", "WebP: lossy"} <= {*plain}
    assert not [name for name in plain if name.startswith(("BMP", "TIFF")) or "CMYK" in name or "16 bits" in name]


def test_what_dali_refuses_and_pillow_reads_is_used(config, monkeypatch):
    """Headers do not say everything, so the definition has the last word."""
    content = KINDS["BMP: RLE4"]()
    info = inspect("image", content)
    assert not info.plain
    wrong = Encoded("image", content, type(info)(info.width, info.height, 1, info.codec, plain=True), FIRST)
    good = jpeg()
    samples = [Encoded("image", good, inspect("image", good), FIRST), wrong]
    found, expected = Decoder(config, 2).each(samples), Decoder(config, 1)([Encoded("image", content, info, FIRST)])
    assert all(rows is not None for rows in found)
    assert np.array_equal(found[1], expected)


KNOWN_TO_PILLOW = {name: saved(photo(), name) for name in ("GIF", "AVIF", "JPEG2000", "ICO", "TGA", "PPM")}


@pytest.mark.parametrize("name", KNOWN_TO_PILLOW | STRANGERS)
def test_what_is_not_decoded_is_named(name):
    with pytest.raises(BadSampleError, match=f"its image is {name}; JPEG, PNG, WebP, BMP and TIFF are decoded"):
        inspect("image", (KNOWN_TO_PILLOW | STRANGERS)[name])


def test_common_images_are_judged_without_decoding(monkeypatch):
    words = text(b"date:create", b"2020-01-01") + text(b"Raw profile type icc", b"\nicc\n 2\n00\n")
    contents = [jpeg(), jpeg(progressive=True), jpeg(image=photo("L")), jpeg(exif=exif(1)), png(RGB, 2, after=words)]
    turned = [jpeg(exif=exif(6)), png(RGB, 2, before=chunk(b"eXIf", exif(6, header=b"")))]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    assert all(inspect("image", content).plain for content in contents)
    assert not any(inspect("image", content).plain for content in turned)


def test_usual_endings_are_images():
    assert {"jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "dib", "tif", "tiff"} == EXTENSIONS["image"]


def test_alpha_of_masks_is_dropped(config):
    """RGBA masks are red first in memory, which other readers exchange with blue."""
    content = bmp(masked(RGBA), 32, RGBA, packing=3, header=108)
    found = pixels(config, Decoder(config, 1)([Encoded("image", content, inspect("image", content), FIRST)]))[0]
    expected = np.asarray(photo().resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32)
    assert np.abs(found - expected).max() <= 1.5
