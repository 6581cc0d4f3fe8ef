"""The embedded data are what their README says, and are rebuilt byte for byte."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from sclds.config.errors import UserError
from sclds.data.prepare import emoji, encode, openclipart
from sclds.data.prepare.captions import MAX_WORDS, concept_of, described, openclipart_title
from sclds.data.prepare.embedded import FOLDERS, embedded_folder
from sclds.data.prepare.item import Item
from sclds.data.prepare.packages import Package, archive_files, fetch
from sclds.data.prepare.split import fingerprint, groups_of, near_duplicates, split_by_concept

MEGABYTE = 1_000_000


def members(name: str) -> dict[str, dict[str, bytes]]:
    """Read a folder: key → ending → content."""
    samples: dict[str, dict[str, bytes]] = {}
    for shard in sorted(embedded_folder(name).glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, ending = member.name.split(".")
                samples.setdefault(key, {})[ending] = tar.extractfile(member).read()
    return samples


@pytest.fixture(scope="module")
def folders():
    return {name: members(name) for name in FOLDERS}


@pytest.fixture(scope="module")
def shown(folders):
    """Decode every sample once: the picture, or all frames of a clip."""
    frames = {}
    for name, samples in folders.items():
        for key, parts in samples.items():
            if name.startswith("images"):
                frames[key] = [Image.open(io.BytesIO(parts["webp"])).convert("RGB")]
            else:
                with av.open(io.BytesIO(parts["webm"])) as container:
                    frames[key] = [f.to_image() for f in container.decode(video=0)]
    return frames


def test_counts_and_size(folders):
    counts = {name: len(samples) for name, samples in folders.items()}
    assert counts["images-train"] + counts["images-heldout"] >= 6000
    assert counts["images-heldout"] >= 400
    assert counts["clips-train"] + counts["clips-heldout"] >= 300
    assert counts["clips-heldout"] >= 60
    root = embedded_folder("images-train").parent
    assert sum(p.stat().st_size for p in root.rglob("*") if p.is_file()) <= 20 * MEGABYTE
    assert json.loads((root / "MANIFEST.json").read_text())["samples"] == counts


def test_manifest_checksums():
    root = embedded_folder("images-train").parent
    for path, checksum in json.loads((root / "MANIFEST.json").read_text())["sha256"].items():
        assert hashlib.sha256((root / path).read_bytes()).hexdigest() == checksum, path


def test_keys_are_unique_and_plain(folders):
    keys = [key for samples in folders.values() for key in samples]
    assert len(keys) == len(set(keys))
    assert all(key.isascii() and key == key.strip() for key in keys)


def test_every_sample_has_a_caption(folders):
    for name, samples in folders.items():
        for key, parts in samples.items():
            assert set(parts) == {"json", "webp" if name.startswith("images") else "webm"}
            assert len(parts["json"]) <= 512, key
            fields = json.loads(parts["json"])
            assert set(fields) == {"caption", "concept", "title", "source", "licence"}
            assert all(fields.values()), key
            assert 1 <= len(fields["caption"].split()) <= MAX_WORDS
            assert fields["caption"] == fields["caption"].lower()


def test_everything_decodes(shown):
    for key, frames in shown.items():
        assert len(frames) == (encode.VIDEO_FRAMES if key.startswith("clip-") else 1), key
        assert all(frame.size == (encode.SIDE, encode.SIDE) for frame in frames)


def test_no_concept_straddles_the_split(folders):
    def concepts(side):
        return {
            json.loads(parts["json"])["concept"]
            for name in FOLDERS
            if name.endswith(side)
            for parts in folders[name].values()
        }

    assert not concepts("-train") & concepts("-heldout")


def test_no_near_duplicate_straddles_the_split(folders, shown):
    keys, sides = [], []
    for name, samples in folders.items():
        keys += samples
        sides += [name.endswith("-heldout")] * len(samples)
    pairs = near_duplicates([fingerprint(shown[key][len(shown[key]) // 2]) for key in keys])
    assert pairs
    assert not [(keys[i], keys[j]) for i, j in pairs if sides[i] != sides[j]]


def test_no_emoji_straddles_the_split(folders):
    def code(key):
        parts = key.split("-")[1:]
        return tuple(p for p in parts if p != "fe0f" and p not in emoji._SKIN_TONES)

    sides = [
        {code(k) for n in FOLDERS if n.endswith(side) for k in folders[n] if not k.startswith("clipart-")}
        for side in ("-train", "-heldout")
    ]
    assert not sides[0] & sides[1]


@pytest.mark.parametrize("name", ["images-heldout", "clips-heldout"])
def test_heldout_captions_are_distinct(folders, name):
    captions = [json.loads(parts["json"])["caption"] for parts in folders[name].values()]
    assert len(captions) == len(set(captions))


def test_dali_decodes_without_a_gpu(folders):
    dali = pytest.importorskip("nvidia.dali")
    fn, types = dali.fn, dali.types

    def first(name, ending):
        return [np.frombuffer(next(iter(folders[name].values()))[ending], np.uint8)]

    @dali.pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def pipeline():
        picture = fn.external_source(source=lambda: first("images-heldout", "webp"), dtype=types.UINT8)
        clip = fn.external_source(source=lambda: first("clips-heldout", "webm"), dtype=types.UINT8)
        return fn.decoders.image(picture, device="cpu"), fn.decoders.video(clip, device="cpu")

    picture, clip = pipeline().run()
    assert picture.at(0).shape == (encode.SIDE, encode.SIDE, 3)
    assert clip.at(0).shape == (encode.VIDEO_FRAMES, encode.SIDE, encode.SIDE, 3)


def test_unknown_folder_lists_the_names():
    with pytest.raises(UserError, match="images-train, images-heldout, clips-train, clips-heldout"):
        embedded_folder("image-train")


def test_shard_headers_hold_nothing_of_the_machine():
    for shard in (p for name in FOLDERS for p in embedded_folder(name).glob("*.tar")):
        with tarfile.open(shard) as tar:
            for m in tar:
                assert (m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) == (0, 0, 0, "", "", 0o644)
                assert not m.pax_headers


def synthetic_animation() -> Image.Image:
    base = np.random.default_rng(0).integers(0, 255, (32, 32, 4), dtype=np.uint8)
    frames = [Image.fromarray(np.roll(base, 4 * i, 0)) for i in range(20)]
    out = io.BytesIO()
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    return Image.open(io.BytesIO(out.getvalue()))


def test_encoding_twice_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        animation = synthetic_animation()
        content = encode.encode_video(encode.animation_frames(animation))
        picture = encode.encode_image(animation)
        encode.write_shard(tmp_path / f"{name}.tar", [("a.webm", content), ("b.webp", picture)])
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        assert tar.getnames() == ["a.webm", "b.webp"]


def test_transparency_becomes_white_and_aspect_stays():
    flat = encode.on_white(Image.new("RGBA", (100, 50), (255, 0, 0, 255)))
    assert flat.size == (encode.SIDE, encode.SIDE)
    assert flat.getpixel((36, 36)) == (255, 0, 0)
    assert flat.getpixel((36, 2)) == (255, 255, 255)
    assert encode.on_white(Image.new("RGBA", (9, 9), (0, 0, 0, 0))).getpixel((36, 36)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("title", "stem", "author", "expected"),
    [
        ("Lemon SVG theme", "folder_locked", "Jose Hevia", "folder locked"),
        ("Clipart by Nicu Buculei - smiley111", "contour_fox", "Nicu Buculei", "outline fox"),
        ("FlowerAndPot", "x", "", "flower and pot"),
        ("Baseball Glove (B and W)", "x", "", "baseball glove black-and-white"),
        ("", "old_car_lumen_design_st_r", "Lumen Design Studio", "old car"),
        ("Cavallo", "x", "", "horse"),
    ],
)
def test_titles_are_cleaned(title, stem, author, expected):
    assert openclipart_title(title, stem, author) == expected


def test_variants_share_a_concept():
    same = ("woman firefighter", "man firefighter", "firefighter with medium-dark skin tone", "red firefighters 02")
    assert {concept_of(title) for title in same} == {"firefighter"}
    assert concept_of("apple pie") != concept_of("apple")


def test_captions_repeat_nothing_and_drop_boilerplate():
    assert described("red apple", "Apple", ["hash", "computer", "apples", "fruit", ""]) == "red apple, fruit"
    assert "jean.victor@" not in described("lamp", "jean.victor@nowhere.org", [])


def test_svg_metadata_is_read():
    svg = b"""<svg><metadata><rdf:RDF><dc:title>Tea &amp; milk</dc:title><dc:subject><rdf:Bag><rdf:li>drink</rdf:li>
      </rdf:Bag></dc:subject><cc:license rdf:resource="http://web.resource.org/cc/PublicDomain"/></rdf:RDF></metadata>"""
    found = openclipart.read_metadata(svg)
    assert (found.title, found.keywords, found.public_domain) == ("Tea & milk", ["drink"], True)


def item(key: str, title: str, **more: str) -> Item:
    return Item(key, f"{title}, living animal", concept_of(title), title, "test", "MIT", **more)


def test_split_keeps_groups_whole():
    items = [item(f"clipart-{i}", f"{name} animal") for i, name in enumerate(["cat", "red cat", "dog", "fox", "hen"])]
    items.append(item("clip-1", "puppy animal", same_as="2"))
    groups = groups_of(items, [(2, 5)])
    assert [0, 1] in groups
    assert [2, 5] in groups
    split = split_by_concept(items, groups, images=2, videos=1)
    assert split.videos_heldout == [5]
    assert 2 in split.images_heldout
    assert not set(split.images_train) & {2}
    assert split == split_by_concept(items, groups, images=2, videos=1)


def test_archive_with_another_checksum_is_refused(tmp_path):
    (tmp_path / "x.tgz").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"x\.tgz has sha256 .*delete it"):
        fetch(Package("npm", "x", "1", "x.tgz", "0" * 64, "MIT"), tmp_path)


def test_missing_client_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"npm is needed to fetch x: install it, or put x\.tgz"):
        fetch(Package("npm", "x", "1", "x.tgz", "0" * 64, "MIT"), tmp_path)


def test_debian_package_is_read(tmp_path: Path):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as tar:
        info = tarfile.TarInfo("./usr/hello")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"hi"))

    def member(name: str, content: bytes) -> bytes:
        return (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
            + content
            + b"\n" * (len(content) % 2)
        )

    archive = tmp_path / "x.deb"
    archive.write_bytes(b"!<arch>\n" + member("debian-binary", b"2.0") + member("data.tar.xz", data.getvalue()))
    assert list(archive_files(archive)) == [("usr/hello", b"hi")]
