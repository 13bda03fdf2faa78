"""Checkpoints are complete or absent."""

import errno
import os
import random

import numpy as np
import pytest
import torch
from torch import nn

from toolkit.training import checkpoint
from toolkit.training.checkpoint import CheckpointStore, DamagedCheckpointError, checkpoints_in


def store(folder, *, keep=None) -> CheckpointStore:
    return CheckpointStore(folder, keep=keep)


def write(folder, *steps, keep=None):
    for step in steps:
        store(folder, keep=keep).write(step, modules={"layer": nn.Linear(2, 2)}, shared={"step": step},
                                       process_state={})


@pytest.mark.parametrize(("steps", "keep", "left"), [
    ([1, 2, 9, 10, 11], None, [1, 2, 9, 10, 11]), ([1, 2, 9, 10, 11], 2, [10, 11]), ([1, 2, 9, 10, 11], 1, [11]),
    ([3, 3], None, [3])])
def test_keep_bounds_the_number_and_the_newest_stay(tmp_path, steps, keep, left):
    write(tmp_path, *steps, keep=keep)
    assert [path.name for path in checkpoints_in(tmp_path)] == [f"step_{step}" for step in left]
    assert len(list(tmp_path.iterdir())) == len(left)


class Unwritable:
    def __reduce__(self):
        raise OSError(f"disk full: {os.strerror(errno.ENOSPC)}")


def test_a_half_written_checkpoint_is_removed(tmp_path):
    write(tmp_path, 3)
    with pytest.raises(OSError, match=r"^the checkpoint of step 4 .*disk full") as caught, \
            store(tmp_path).explaining_full_disk():
        store(tmp_path).write(4, modules={"layer": nn.Linear(2, 2)}, shared={"bad": Unwritable()}, process_state={})
    assert str(caught.value).count("--resume") == 1
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step_3"]
    write(tmp_path, 4)  # after the failed attempt
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_3", "step_4"]


def test_checkpoint_round_trip(tmp_path):
    layer, other = nn.Linear(2, 2), nn.Linear(2, 2)
    store(tmp_path).write(1, modules={"layer": layer}, shared={"step": 1}, process_state={"position": [4]})
    assert store(tmp_path).read(tmp_path / "step_1", modules={"layer": other}) == ({"step": 1}, {"position": [4]})
    assert torch.equal(other.weight, layer.weight) and torch.equal(other.bias, layer.bias)


def test_weights_that_do_not_fit_are_an_error(tmp_path):
    write(tmp_path, 1)
    with pytest.raises(ValueError, match=r"(?s)step_1 does not fit this config.*size mismatch"):
        store(tmp_path).read(tmp_path / "step_1", modules={"layer": nn.Linear(3, 2)})


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
@pytest.mark.parametrize("name", ["layer.safetensors", "state.pt", "process_0.pt"])
def test_the_newest_undamaged_checkpoint_is_read(tmp_path, caplog, name, damage):
    write(tmp_path, 1, 2, 3)
    file = tmp_path / "step_3" / name
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(content[:len(content) // 2] if damage == "truncated" else b"")
    newest, shared, _ = store(tmp_path).read_newest(modules={"layer": nn.Linear(2, 2)})
    assert newest == tmp_path / "step_2" and shared == {"step": 2}
    message, = (record.message for record in caplog.records)
    assert "step_3 is skipped" in message and name in message and "damaged" in message


def test_a_checkpoint_that_another_process_cannot_read_is_skipped_by_all(tmp_path, monkeypatch):
    write(tmp_path, 1, 2)
    votes = iter([True, False])  # as another process answers
    monkeypatch.setattr(checkpoint, "any_process", lambda mine: mine or next(votes))
    assert store(tmp_path).read_newest(modules={"layer": nn.Linear(2, 2)})[0] == tmp_path / "step_1"


def test_all_checkpoints_damaged_is_an_error_and_no_checkpoint_is_not(tmp_path):
    assert store(tmp_path).read_newest(modules={}) is None
    write(tmp_path, 1, 2)
    for state in tmp_path.glob("step_*/state.pt"):
        state.unlink()
    with pytest.raises(DamagedCheckpointError, match=r"no checkpoint in .* can be read .*another --work-dir"):
        store(tmp_path).read_newest(modules={})


@pytest.mark.parametrize(("before", "now", "words"), [(1, 2, "by 1 process, got 2"), (2, 1, "by 2 processes, got 1")])
def test_another_number_of_processes_is_refused(tmp_path, before, now, words):
    CheckpointStore(tmp_path, keep=None, num_processes=before).write(1, modules={}, shared={}, process_state={})
    with pytest.raises(ValueError, match=f"was written {words}; resume with as many as before"):
        CheckpointStore(tmp_path, keep=None, num_processes=now).read_newest(modules={})


def test_every_random_generator_continues_from_its_saved_state(tmp_path):
    def draw():
        return torch.rand(3).tolist(), random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn()
    random.gauss(0, 1), np.random.randn()  # both keep a second value in store
    torch.save(checkpoint.random_state(), tmp_path / "state.pt")
    first = draw()
    checkpoint.set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == first
