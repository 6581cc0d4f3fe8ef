"""No fault of TensorBoard's files ends a run."""

import threading

import torch
from tensorboard.summary.writer.record_writer import RecordWriter

from sclds.train.board import Board


def test_what_is_written_can_be_read_back(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    said = []
    board = Board(tmp_path / "board", 1, said.append)
    board.scalars({"loss/mlm": 1.5}, 1)
    board.picture("inputs/a", torch.zeros(3, 4, 4), "words", 1)
    board.text("settings", "    name: a")
    board.close()
    found = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [event.value for event in found.Scalars("loss/mlm")] == [1.5]
    assert said == []


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path):
    said = []
    (tmp_path / "file").touch()
    board = Board(tmp_path / "file" / "board", 1, said.append)
    board.scalars({"loss/mlm": 1.5}, 1)
    board.close()
    [sentence] = said
    assert "cannot be written (Not a directory): the run goes on without TensorBoard" in sentence


def test_a_disk_that_fills_up_is_said_once(tmp_path, monkeypatch):
    """TensorBoard writes in a thread of its own, and raises there what the next call passes on."""
    said, threads = [], []
    monkeypatch.setattr(threading, "excepthook", threads.append)
    before = threading.excepthook
    board = Board(tmp_path, 1, said.append)
    board.scalars({"loss/mlm": 1.5}, 1)

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RecordWriter, "write", full)
    for step in range(2, 200):
        board.scalars({"loss/mlm": 1.5}, step)
        if said:
            break
    for step in range(200, 210):
        board.scalars({"loss/mlm": 1.5}, step)
    board.close()
    [sentence] = said
    assert threads == [], "no stack of a thread is printed"
    assert threading.excepthook == before
    assert "No space left on device" in sentence
