"""Faults in how a list is written, and in how its rows are told from one another: numbers, text, quotation marks."""

import gzip
import hashlib
import json
import zlib

from .layouts import photo
from .list_cases import (
    CSV_HEAD,
    HEAD,
    SIDECARS,
    TSV,
    URLS,
    Case,
    cc3m,
    image,
    internvid_line,
    karpathy,
    one_row,
    refused,
    sbu_texts,
    table,
    video,
    webvid,
    with_first,
)

ROWS: dict[str, list[Case]] = {
    "header line or none, last line feed or none, images missing, counted from 0 or 1": [
        *(cc3m({f"{n}.jpg": n for n in range(6)}, head=head, tail=tail) for head in ("", HEAD) for tail in ("", "\n")),
        *(cc3m({f"{n + 1}.jpg": n for n in (1, 5)}, head=head, tail=tail) for head in ("",) for tail in ("", "\n")),
        cc3m({"0.jpg": 0, "00003.png": 3}, head="Caption\tImage URL\r\n", tail="\n\n"),
        cc3m({f"{n + 2}.jpg": n for n in (0, 5)}, head=HEAD),
        cc3m({f"{n}_{zlib.crc32(URLS[n].encode())}": n for n in (2, 3)}, head=HEAD, tail=""),
        cc3m({f"{n + 1}_{zlib.crc32(URLS[n].encode())}": n for n in (2, 3)}, head=HEAD),
        refused(cc3m({f"{n}.jpg": n for n in range(1, 5)})),
        refused(cc3m({f"{n}.jpg": n for n in range(1, 6)}, head=HEAD)),
        cc3m({f"{n}.jpg": n for n in range(1, 5)}, first_image=0),
        cc3m({f"{n}.jpg": n - 1 for n in range(1, 5)}, head=HEAD, first_image=1),
    ],
    "images named by number inside numbered folders": [
        refused(cc3m({"0000/000.jpg": 0, "0001/000.jpg": 3})),
        refused(cc3m({"00001/000010000.jpg": 3})),
        cc3m({"0000/000.jpg": 0, "0001/000.jpg": 3, "0001/002.jpg": 5}, folder_rows=3),
        cc3m({"00000/000001.jpg": 1, "00001/000012.jpg": 5}, folder_rows=3),
        cc3m({"0/0.jpg": 0, "1/3.jpg": 3}, folder_rows=0),
        cc3m({"0000/000.jpg": 0, "0000/004.jpg": 4}),
        refused(cc3m({"0000/000.jpg": 0, "0001/003.jpg": 3}, folder_rows=3)),
        refused(cc3m({"0.jpg": 0, "a/0.png": 0})),
    ],
    "captions beside the images in numbered folders": [
        Case("cc3m", {TSV: f"listed\t{URLS[0]}\n"} | SIDECARS, [["own 0"], ["own 1"]]),
        Case(
            "cc3m",
            {TSV: f"x\t{URLS[0]}\n", "training/0000/000.txt": "own\n"} | dict([*SIDECARS.items()][:1]),
            [["own"]],
        ),
        Case("cc3m", {TSV: f"x\t{URLS[0]}\n", "training/0002/7.jpg": photo(1)} | SIDECARS, [["own 0"], ["own 1"]]),
    ],
    "blank line among the rows, images named by number": [
        refused(cc3m({"0.jpg": 0}), files={TSV: f"a\t{URLS[0]}\n\nb\t{URLS[1]}\n"}),
    ],
    "image whose number no row has": [
        refused(cc3m({"0.jpg": 0, "9.jpg": 0})),
        refused(cc3m({"0.jpg": 0}), files={TSV: f"a\tb\nc\td\ne\t{URLS[0]}\n", "training/1.jpg": photo(1)}),
    ],
    "option that has no effect": [
        refused(cc3m({f"0_{zlib.crc32(URLS[0].encode())}": 0}, first_image=0)),
        refused(cc3m({"0.jpg": 0}, folder_rows=3)),
        refused(Case("cc3m", {TSV: f"x\t{URLS[0]}\n"} | SIDECARS, options={"first_image": 0})),
        refused(Case("sbu", {"annot.json": [], "images/a.jpg": photo(1)}, options={"folder_rows": 0})),
    ],
    "U+0085, U+2028, form feed, lone CR or tab in a caption": [
        *(with_first(one_row(f"old{mark}tower"), "old tower") for mark in "\x85\u2028\u2029\x0b\x0c\r\x1c\t"),
        *(
            webvid(f'1,u,P,000001,"old{mark}tower"\n2,u,P,000001,fog\n', "old tower", "fog")
            for mark in "\u2028\x85\n\r"
        ),
        Case(
            "sbu",
            sbu_texts("http://x/4_cd.jpg\nhttp://x/5_ab.jpg", "four\u2028cats\x85\nfive\x0ccats\n").files,
            [["four cats"], ["five cats"]],
        ),
        Case(
            "internvid",
            {
                "InternVid-10M-flt.jsonl": internvid_line("old\u2028tower"),
                "videos/a_1_2.mp4": video(),
            },
            [["old tower"]],
        ),
    ],
    "HTML entities in a caption": [with_first(one_row("salt &amp; &#34;pepper&quot;"), 'salt & "pepper"')],
    "byte order mark, UTF-16, UTF-32, Windows line ends": [
        *(
            with_first(one_row("café", lambda text, e=encoding: text.decode().encode(e)), "café")
            for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
        ),
        with_first(one_row("café", lambda text: text.replace(b"\n", b"\r\n")), "café"),
        webvid("1,u,P,000001,fog\r\n", "fog", head="\ufeff" + CSV_HEAD.replace("\n", "\r\n")),
        Case(
            "flickr30k",
            {
                "dataset_flickr30k.json": json.dumps(
                    karpathy({"raw": "a"}, captions=[]).files["dataset_flickr30k.json"]
                ).encode("utf-16"),
                "flickr30k-images/0.jpg": photo(1),
            },
            [["a"]],
        ),
    ],
    "bytes that are not UTF-8": [
        one_row(b"caf\xe9"),
        one_row(b"\xff\xff"),
        Case(
            "flickr30k",
            karpathy({"raw": "a"}, captions=[]).files
            | {
                "dataset_flickr30k.json": json.dumps(
                    karpathy({"raw": "kept"}, {"raw": "caf?"}, captions=[]).files["dataset_flickr30k.json"]
                )
                .replace("?", "\udce9")
                .encode("utf-8", "surrogateescape")
            },
            [["kept"]],
        ),
    ],
    "UTF-16 that is cut, lines that end in CR alone, a list still packed": [
        refused(one_row("a", lambda text: text.decode().encode("utf-16")[:-1])),
        refused(one_row("a", lambda text: text.replace(b"\n", b"\r"))),
        refused(one_row("a", gzip.compress)),
    ],
    "quotation mark that is never closed": [
        webvid('1,u,P,000001,"Boats\n2,u,P,000001,fog\n3,u,P,000001,"At sea"\n', "fog", "At sea"),
        webvid('1,u,P,000001,"Boats\n2,u,P,000001,fog"\n3,u,P,000001,rain\n', 'fog"', "rain"),
        webvid('1,u,P,000001,fog\n2,u,P,000001,"Boats\n', "fog"),
        webvid('1,u,P,000001,fog\n2,u,P,000001,"Boats" at sea\n3,u,P,000001,5" pipe\n', "fog", '5" pipe'),
    ],
    "table that a tool wrote again, with quotation marks or columns of its own": [
        table('a\t{}\n"he said ""hi"""\t{}\n"two\nlines"\t{}\n"quoted"\t{}\n', 'a|he said "hi"|two lines|"quoted"'),
        table("\tcaption\turl\n0\ta\t{}\n1\tb\t{}\n", "a|b"),
        table("URL\tText\tscore\n{}\ta\t0.9\n{}\tb\t0.8\n", "a|b"),
        table('"not\n"closed\t{}\nc\t{}\n', '"closed|c'),
        refused(table("a\t{}\t0.9\nb\t{}\t0.8\n", "")),
        refused(table("Bild\tAdresse\tWert\na\t{}\t0.9\nb\t{}\t0.8\n", "")),
    ],
    "quotation mark that is never closed, images named by number": [
        refused(cc3m({"0.jpg": 0}), files={TSV: f'a\t{URLS[0]}\n"b\t{URLS[1]}\nc\t{URLS[2]}\n'}),
        Case(
            "cc3m",
            {TSV: f'a\t{URLS[0]}\n"b" c\t{URLS[1]}\n', "training/1.jpg": image()},
            [['"b" c']],
            options={"first_image": 0},
        ),
    ],
    "images of which no name can be a row's": [
        refused(cc3m({"building.jpg": 0, "b/1x.png": 0})),
        cc3m({f"{n:012d}.jpg": n for n in range(6)}),
        cc3m({f"{hashlib.md5(URLS[n].encode()).hexdigest().upper()}.jpg": n for n in (1, 2)}),
    ],
}
