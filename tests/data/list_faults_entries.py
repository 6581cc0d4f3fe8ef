"""Faults in the entries of a list: captions, keys, images that they name, and splits."""

from .layouts import photo
from .list_cases import (
    PARTS,
    REGIONS,
    Case,
    internvid_line,
    karpathy,
    msrvtt,
    refused,
    regions,
    sbu,
    sbu_texts,
    several,
    video,
    webvid,
)

ENTRIES: dict[str, list[Case]] = {
    "null, empty text, number or list among an entry's captions": [
        karpathy({"raw": "one"}, {"raw": None}, {"raw": ""}, {"raw": 7}, {"raw": "two"}, {}, captions=["one", "two"]),
        karpathy({"raw": "\u200b"}, {"raw": ["x"]}, None, "three", captions=["three"]),
        Case(
            "visual_genome",
            {
                "region_descriptions.json": [{"id": 1, "regions": [{"phrase": None}, {"phrase": "a bay"}, {}]}],
                "VG_100K/1.jpg": photo(1),
                "VG_100K_2/2.jpg": photo(1),
            },
            [["a bay"]],
        ),
        sbu({"5_ab.jpg": [None, "five cats", 3]}),
    ],
    "no caption at all": [
        Case(
            "flickr30k",
            {
                "dataset_flickr30k.json": {
                    "images": [
                        {"filename": "0.jpg", "split": "train", "sentences": s, "imgid": 0}
                        for s in ([{"raw": None}], [{"raw": " "}], [])
                    ]
                    + [{"filename": "1.jpg", "split": "train", "sentences": [{"raw": "kept"}]}]
                },
                "flickr30k-images/0.jpg": photo(1),
                "flickr30k-images/1.jpg": photo(1),
            },
            [["kept"]],
        ),
    ],
    "JSON objects where pairs were expected, and pairs where objects were": [
        sbu([["5_ab.jpg", "five cats"]]),
        sbu([{"image": "sbu/5_ab.jpg", "caption": "five cats"}, 7]),
        sbu({"5_ab.jpg": "five cats"}),
        sbu({"images/5_ab.jpg": {"caption": "five cats", "id": 3}}),
        sbu([["http://x/5_ab.jpg", "five cats"]], "sbu-captions-all.json"),
        sbu([{"image_url": "http://x/5_ab.jpg", "caption": "five cats"}], "sbu-captions-all.json"),
        sbu([["0001/000.jpg", "five cats"]], **{"images/0001/000.jpg": photo(1), "images/0000/000.jpg": photo(2)}),
        *(
            Case("internvid", {"InternVid-10M-flt.jsonl": text, "videos/a_1_2.mp4": video()}, [["old"]])
            for text in (f"[{internvid_line('old')}]", f"[\n{internvid_line('old')},\n7]\n")
        ),
        refused(sbu({"urls": []}, "sbu-captions-all.json")),
        refused(sbu(7)),
    ],
    "JSON lists one behind the other, and what else lies behind a list": [
        *(
            Case("internvid", {"InternVid-10M-flt.jsonl": text} | PARTS, [["x"], ["y"]])
            for text in ("[{}][{}]", "[{}]\n[{}]\n", "\n[{},\n{}]")
            for text in [text.format(internvid_line("x"), internvid_line("y", "b"))]
        ),
        Case("visual_genome", {"region_descriptions.json": regions(1) + "\n" + regions(2)} | REGIONS, [["1"], ["2"]]),
        refused(Case("visual_genome", {"region_descriptions.json": regions(1, 2) + "{}"} | REGIONS)),
    ],
    "lists of unequal length": [
        refused(sbu_texts("http://x/4_cd.jpg\nhttp://x/5_ab.jpg\n", "five cats\n")),
        refused(sbu({"image_urls": ["http://x/5_ab.jpg"], "captions": []}, "sbu-captions-all.json")),
    ],
    "names that differ where keys do not": [
        several({"犬1.jpg": "a dog", "猫1.jpg": "a cat"}),
        several({"a b.jpg": "a dog", "a-b.jpg": "a cat"}),
        several({"a.jpg": "a dog", "a.png": "a cat"}),
    ],
    "image that lies in another folder than the list names": [
        several({"0001/000.jpg": "a dog", "0002/000.jpg": "a cat"}, ["0002/000.jpg"], ["a cat"]),
        several({"a/x.jpg": "a dog", "b/x.jpg": "a cat", "y.jpg": "fog"}, ["x.jpg", "y.jpg"], ["fog"]),
        several({"sbu/x.jpg": "a dog", "/images/b/y.jpg": "a cat"}, ["x.jpg", "c/y.jpg"]),
    ],
    "two rows of one id": [
        webvid("1,u,P,000001,fog\n1,u,P,000001,rain\n2,u,P,000001,sun\n", "fog", "sun"),
        sbu('{"5_ab.jpg": "five cats", "5_ab.jpg": "four dogs"}'),
    ],
    "two images of one name": [
        refused(sbu([["000.jpg", "x"]], **{"images/0001/000.jpg": photo(1), "images/0000/000.jpg": photo(2)})),
        refused(
            sbu(
                [["http://x/5_ab.jpg", "x"]],
                "sbu-captions-all.json",
                **{"images/5_ab.jpg": photo(1), "images/a/5_ab.png": photo(2)},
            )
        ),
    ],
    "row with fewer or more columns, line that is not JSON": [
        webvid("1,u,P,000001\n\n2,u,P,000001,fog\n3,u,P,000001,rain,sun\n", "fog"),
        Case(
            "internvid",
            {
                "InternVid-10M-flt.jsonl": f'{internvid_line("old")}\n{{"Youtu\n[1]\n',
                "videos/a_1_2.mp4": video(),
            },
            [["old"]],
        ),
        refused(Case("internvid", {"InternVid-10M-flt.jsonl": "no\n{}\n", "videos/a_1_2.mp4": video()})),
    ],
    "1k-A whose list of held-out videos is not whole": [
        refused(
            Case(
                "msrvtt_1ka",
                {
                    "MSRVTT_JSFUSION_test.csv": f"key,vid_key,video_id,sentence\nret0,msr0,video0,a\n{row}",
                    "MSRVTT_data.json": {"videos": [], "sentences": []},
                    "videos/video0.mp4": video(),
                },
            )
        )
        for row in ("ret1,msr1\n", 'ret1,msr1,video1,"open\n')
    ],
    "1k-A whose list names other videos than the annotations": [
        refused(
            Case(
                "msrvtt_1ka",
                {
                    "MSRVTT_JSFUSION_test.csv": f"key,vid_key,video_id,sentence\nret0,msr0,{name},a\n",
                    "MSRVTT_data.json": {"videos": [{"video_id": "video0"}], "sentences": []},
                    "videos/video0.mp4": video(),
                },
            )
        )
        for name in ("video0.mp4", "Video0", "0", "video1")
    ],
    "MSR-VTT whose list marks all videos alike": [
        msrvtt(["train"] * 2, "train", [["it is video6512"]]),
        msrvtt(["train"] * 2, "val", [["it is video6513"]]),
        msrvtt(["train", "validate"], "train", [["it is video6512"]]),
        msrvtt(["validate", "train"], "val", [["it is video6512"]]),
        refused(msrvtt(["train"] * 2, "val", [], first=0)),
    ],
}
