"""The public data sets that `sclds prepare` knows: what their owners distribute, and who reads it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sclds.config.errors import DataError
from sclds.data.prepare import karpathy, linked, msrvtt, questions, video_lists, videos, visual_genome
from sclds.data.prepare.expected import EXPECTED, Expected
from sclds.data.prepare.records import Records
from sclds.data.storage.shards import NLVR2_MEMBER, VE_MEMBER, VQA_MEMBER, Kind


@dataclass(frozen=True)
class Source:
    """One data set.

    Attributes:
        title: Its name as people write it.
        kind: What a sample shows.
        splits: Per split, the files and folders below the root that it needs; "a|b" is either of them.
        read: Gives the records of a split, which exists; takes its options by name.
        obtain: Whose files they are and where they are offered.
        member: Extension of the JSON member of a sample; pre-training reads "json" only.
        options: What a user may have to say about the files, each a whole number.
        expected: Samples by split, or by list where a split has several, as far as known.
    """

    title: str
    kind: Kind
    splits: Mapping[str, tuple[str, ...]]
    read: Callable[..., Records]
    obtain: str
    member: str = "json"
    options: tuple[str, ...] = ()
    expected: Mapping[str, Expected] = field(default_factory=dict)

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


READY = {
    "cc3m_wds": "cc3m-wds/cc3m-train-*.tar",
    "cc3m_wds-val": "cc3m-wds/cc3m-validation-*.tar",
    "cc12m_wds": "cc12m-wds/cc12m-train-*.tar",
}
"""Shards of images that others offer, by their row in data_sets.yaml: pixparse's copies of CC3M and CC12M. They need an
index at most."""


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
        expected=EXPECTED["coco"],
    ),
    "visual_genome": Source(
        "Visual Genome",
        "image",
        {"train": ("region_descriptions.json", "VG_100K", "VG_100K_2")},
        visual_genome.read_visual_genome,
        "pictures (images.zip, images2.zip) and region descriptions are offered on the Visual Genome download page",
        expected=EXPECTED["visual_genome"],
    ),
    "sbu": Source(
        "SBU captions",
        "image",
        {"train": ("|".join(linked.SBU_LISTS), "images")},
        linked.read_sbu,
        "the list is offered on the SBU Captioned Photo Dataset page; download its images into images",
        options=linked.OPTIONS,
        expected=EXPECTED["sbu"],
    ),
    "cc3m": Source(
        "Conceptual Captions 3M",
        "image",
        linked.CC3M_FILES,
        linked.read_cc3m,
        "the lists are offered on Google's Conceptual Captions page; download their images into training and "
        "validation, or take pixparse/cc3m-wds, whose shards need no preparing",
        options=linked.OPTIONS,
        expected=EXPECTED["cc3m"],
    ),
    "cc12m": Source(
        "Conceptual 12M",
        "image",
        linked.CC12M_FILES,
        linked.read_cc12m,
        "the list is offered in the conceptual-12m repository; download its images into images, or take "
        "pixparse/cc12m-wds, whose shards need no preparing",
        options=linked.OPTIONS,
        expected=EXPECTED["cc12m"],
    ),
    "webvid": Source(
        "WebVid-2.5M",
        "video",
        {split: (f"results_2M_{split}.csv", "videos") for split in ("train", "val")},
        videos.read_webvid,
        "its authors no longer distribute it: only who has lists and videos since before 2024, the videos as "
        "videos/<page_dir>/<videoid>.mp4, can prepare it; others take panda70m, internvid or sharegpt4video",
        expected=EXPECTED["webvid"],
    ),
    "panda70m": Source(
        "Panda-70M",
        "video",
        video_lists.PANDA70M,
        video_lists.read_panda70m,
        "the lists are offered in snap-research's Panda-70M repository, with the video2dataset that downloads and cuts "
        "the videos",
        expected=EXPECTED["panda70m"],
    ),
    "internvid": Source(
        "InternVid",
        "video",
        video_lists.INTERNVID,
        video_lists.read_internvid,
        "the lists are offered as OpenGVLab/InternVid and OpenGVLab/InternVid-Full on the Hugging Face Hub; cut the "
        "videos into videos/<YoutubeID>_<Start_timestamp>_<End_timestamp>.mp4",
        expected=EXPECTED["internvid"],
    ),
    "sharegpt4video": Source(
        "ShareGPT4Video",
        "video",
        video_lists.SHAREGPT4VIDEO,
        video_lists.read_sharegpt4video,
        "list and videos (zip_folder) are offered as ShareGPT4Video/ShareGPT4Video on the Hugging Face Hub; unpack the "
        "videos into videos/<video_path>",
        expected=EXPECTED["sharegpt4video"],
    ),
    "flickr30k": Source(
        "Flickr30k (Karpathy split)",
        "image",
        dict.fromkeys(("train", "val", "test"), ("dataset_flickr30k.json", "flickr30k-images")),
        karpathy.read_flickr30k,
        f"the University of Illinois sends flickr30k-images.tar.gz on request; {_KARPATHY}",
        expected=EXPECTED["flickr30k"],
    ),
    "msrvtt": Source(
        "MSR-VTT",
        "video",
        msrvtt.MSRVTT,
        msrvtt.read_msrvtt,
        "annotations and videos (train_val and test) were distributed by the MSR Video to Language challenge",
        expected=EXPECTED["msrvtt"],
    ),
    "msrvtt_1ka": Source(
        "MSR-VTT (split 1k-A)",
        "video",
        msrvtt.MSRVTT_1KA,
        msrvtt.read_msrvtt_1ka,
        "MSRVTT_JSFUSION_test.csv is in the repository of JSFusion's authors and of most work on text-to-video "
        "retrieval; annotations and videos are those of msrvtt",
        expected=EXPECTED["msrvtt_1ka"],
    ),
    "lsmdc": Source(
        "LSMDC 2016",
        "video",
        {split: (name, "|".join(videos.LSMDC_FOLDERS)) for split, name in videos.LSMDC.items()},
        videos.read_lsmdc,
        "tables and videos are given to those who ask on the Large Scale Movie Description Challenge's page",
        expected=EXPECTED["lsmdc"],
    ),
    "vqav2": Source(
        "VQAv2",
        "image",
        {split: questions.vqa_files(split) for split in ("train", "val", "test")},
        questions.read_vqav2,
        f"questions and annotations are offered on the VQA download page; {_COCO_IMAGES}",
        member=VQA_MEMBER,
        expected=EXPECTED["vqav2"],
    ),
    "easy_vqa": Source(
        "easy-VQA",
        "image",
        {split: (folder,) for split, folder in questions.EASY_VQA.items()},
        questions.read_easy_vqa,
        "the Python package easy-vqa holds questions and images: pip install --no-deps --target FOLDER -r "
        "requirements/easy_vqa.txt",
        member=VQA_MEMBER,
        expected=EXPECTED["easy_vqa"],
    ),
    "snli_ve": Source(
        "SNLI-VE",
        "image",
        {split: (name, "flickr30k-images") for split, name in questions.SNLI_VE.items()},
        questions.read_snli_ve,
        "the lists are in the SNLI-VE repository of its authors; the University of Illinois sends "
        "flickr30k-images.tar.gz on request",
        member=VE_MEMBER,
        expected=EXPECTED["snli_ve"],
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
