"""The public data sets that `sclds prepare` knows: what their owners distribute, and who reads it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sclds.config.errors import DataError
from sclds.data.prepare import karpathy, linked, questions, videos, visual_genome
from sclds.data.prepare.records import Records
from sclds.data.storage.shards import NLVR2_MEMBER, VQA_MEMBER, Kind


@dataclass(frozen=True)
class Source:
    """One data set.

    Attributes:
        title: Its name as people write it.
        kind: What a sample shows.
        splits: Per split, the files and folders below the root that it needs; "a|b" is either of them.
        read: Gives the records of a split, which exists.
        obtain: Whose files they are and where they are offered.
        member: Extension of the JSON member of a sample; pre-training reads "json" only.
    """

    title: str
    kind: Kind
    splits: Mapping[str, tuple[str, ...]]
    read: Callable[[Path, str], Records]
    obtain: str
    member: str = "json"

    def chosen(self, root: Path, splits: list[str] | None) -> list[str]:
        """Return the splits to prepare after a look at whether their files are there.

        Raises:
            DataError: A split is unknown, or files are missing; all of them are named.
        """
        unknown = [split for split in splits or [] if split not in self.splits]
        if unknown:
            raise DataError(f"{self.title} has no split {', '.join(unknown)}: use {', '.join(self.splits)}")
        wanted = splits or list(self.splits)
        needed = dict.fromkeys(place for split in wanted for place in self.splits[split])
        missing = [p.replace("|", " or ") for p in needed if not any((root / one).exists() for one in p.split("|"))]
        if missing:
            sentence = f"{root} lacks {', '.join(missing)}. {self.title}: {self.obtain}."
            if len(wanted) > 1:
                sentence += f" To prepare only what is there, give --splits with some of {','.join(wanted)}."
            raise DataError(sentence)
        return wanted


def row_name(name: str, split: str) -> str:
    """Return what a split is called in data_sets.yaml."""
    return name if split == "train" else f"{name}-{split}"


_COCO_IMAGES = "train2014.zip, val2014.zip and test2015.zip are offered on the COCO download page"
_KARPATHY = "caption_datasets.zip is offered on Andrej Karpathy's page on deep image-sentence alignment"

SOURCES = {
    "coco": Source(
        "COCO captions (Karpathy split)",
        "image",
        {
            "train": ("dataset_coco.json", "train2014", "val2014"),
            "val": ("dataset_coco.json", "val2014"),
            "test": ("dataset_coco.json", "val2014"),
        },
        karpathy.read_coco,
        f"{_COCO_IMAGES}; {_KARPATHY}",
    ),
    "visual_genome": Source(
        "Visual Genome",
        "image",
        {"train": ("region_descriptions.json", "VG_100K", "VG_100K_2")},
        visual_genome.read_visual_genome,
        "pictures (images.zip, images2.zip) and region descriptions are offered on the Visual Genome download page",
    ),
    "sbu": Source(
        "SBU captions",
        "image",
        {"train": ("|".join(linked.SBU_LISTS), "images")},
        linked.read_sbu,
        "the list is offered on the SBU Captioned Photo Dataset page; download its images into images",
    ),
    "cc3m": Source(
        "Conceptual Captions 3M",
        "image",
        linked.CC3M_FILES,
        linked.read_cc3m,
        "the lists are offered on Google's Conceptual Captions page; download their images into training and "
        "validation",
    ),
    "webvid": Source(
        "WebVid-2.5M",
        "video",
        {split: (f"results_2M_{split}.csv", "videos") for split in ("train", "val")},
        videos.read_webvid,
        "the lists come from the WebVid authors' page; download their videos into videos/<page_dir>/<videoid>.mp4",
    ),
    "flickr30k": Source(
        "Flickr30k (Karpathy split)",
        "image",
        dict.fromkeys(("train", "val", "test"), ("dataset_flickr30k.json", "flickr30k-images")),
        karpathy.read_flickr30k,
        f"the University of Illinois sends flickr30k-images.tar.gz on request; {_KARPATHY}",
    ),
    "msrvtt": Source(
        "MSR-VTT",
        "video",
        {split: (name, folder) for split, (name, folder, _) in videos.MSRVTT.items()},
        videos.read_msrvtt,
        "annotations and videos (train_val and test) were distributed by the MSR Video to Language challenge",
    ),
    "lsmdc": Source(
        "LSMDC 2016",
        "video",
        {split: (name, "|".join(videos.LSMDC_FOLDERS)) for split, name in videos.LSMDC.items()},
        videos.read_lsmdc,
        "tables and videos are given to those who ask on the Large Scale Movie Description Challenge's page",
    ),
    "vqav2": Source(
        "VQAv2",
        "image",
        {split: questions.vqa_files(split) for split in ("train", "val", "test")},
        questions.read_vqav2,
        f"questions and annotations are offered on the VQA download page; {_COCO_IMAGES}",
        member=VQA_MEMBER,
    ),
    "nlvr2": Source(
        "NLVR2",
        "image",
        {split: (f"{part}.json", f"images/{part}|{part}") for split, part in questions.NLVR2.items()},
        questions.read_nlvr2,
        "statements are in the NLVR repository of lil-lab, whose page tells how to ask for the images",
        member=NLVR2_MEMBER,
    ),
}
