"""Configurations over shards that a test draws itself."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sclds.config import Config
from sclds.config.reading import parse_config
from tests.data.synthetic import Members, write_tar


@pytest.fixture(autouse=True)
def no_priority_over_others() -> Iterator[None]:
    """No test leaves this process scheduled before all others, which its processes would inherit."""
    yield
    if os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        pytest.fail("this test left its process at real-time priority: encode with `encoding`")


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Config]:
    """Return a function that writes shards and gives a configuration which reads them."""

    def make(images: list[Members], clips: list[Members], batch: dict[str, int], **data: Any) -> Config:
        train = []
        for name, kind, shards in (("pictures", "image", images), ("clips", "video", clips)):
            for i, members in enumerate(shards):
                write_tar(tmp_path / name / f"{i:05d}.tar", members)
            if shards:
                train.append({"name": name, "kind": kind, "shards": str(tmp_path / name)})
        return parse_config(
            {
                "name": "test",
                "data": {
                    "train": train,
                    "tokenizer": "embedded",
                    "image_size": 32,
                    "video_size": 32,
                    "decode_threads": 1,
                    **data,
                },
                "model": {"vision": {"patch_size": 8}},
                "batch": batch,
            }
        )

    return make
