"""Training from tars: a resumed run is the undisturbed one, and readers share each pass."""

from __future__ import annotations

import itertools
import shutil

import pytest
from data.numbered import encode
from data.tars import write_image_shards, write_shard
from mmengine.config import Config
from safetensors.torch import load_file
from training import tiny

from toolkit.build import build_trainer
from toolkit.data import TrainLoader

pytestmark = pytest.mark.engine
STEPS = 12


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Clips of three tars and images of two, each read by two workers, a checkpoint after each step."""
    folder = tmp_path_factory.mktemp("data")
    content = encode(folder / "a.mp4", num_frames=9).read_bytes()
    for shard, size in enumerate((3, 1, 3)):
        write_shard(folder / f"clips-{shard:02d}.tar", {f"{shard}/{n}": {"mp4": content} for n in range(size)})
    write_image_shards(folder / "images", sizes=(4, 5))
    moving = dict(type="VideoShards", path=str(folder / "clips-{00..02}.tar"), num_frames=5, size=16)
    still = dict(type="ImageShards", path=str(folder / "images"), size=16)
    config = tiny.tiny_config(folder, training__max_steps=STEPS, training__checkpoints=dict(every=1, keep=None))
    config["data"] = {
        "train": [dict(dataset=dataset, batch_size=2, num_workers=2) for dataset in (moving, still)],
        "val": [dict(dataset=dict(dataset, train=False), batch_size=2, num_workers=1) for dataset in (moving, still)]}
    return config


def run(config, work_dir, *, resume=False):
    """Train, and return the keys of each batch."""
    keys, advance = [], TrainLoader.__next__

    def noted(loader):
        batch = advance(loader)
        keys.append(batch.keys)
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainLoader, "__next__", noted)
        trainer = build_trainer(Config(config), work_dir=work_dir, resume=resume)
        assert trainer.run()
    # it lets go of its workers: left to the garbage collector, each would be waited for in vain for 5 s
    trainer.train_loader.load_state_dict(trainer.train_loader.state_dict())
    return keys


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("undisturbed")
    return work_dir, run(config, work_dir)


def test_a_run_goes_through_all_samples_and_begins_again(undisturbed):
    keys = list(itertools.chain(*undisturbed[1]))
    for kind, number in ((".mp4", 7), (".png", 9)):
        seen = [key for key in keys if key.endswith(kind)]
        assert len(seen) > number and len(set(seen)) == number  # well into the second pass


@pytest.mark.parametrize("step", [1, 5, 10])
def test_a_resumed_run_has_the_samples_and_weights_of_an_undisturbed_one(undisturbed, config, tmp_path, step):
    work_dir, keys = undisturbed
    shutil.copytree(work_dir / "checkpoints" / f"step_{step}", tmp_path / "checkpoints" / f"step_{step}")
    assert run(config, tmp_path, resume=True) == keys[step:]
    for name in ("tokenizer", "ema"):
        one, other = (load_file(folder / "checkpoints" / f"step_{STEPS}" / f"{name}.safetensors")
                      for folder in (work_dir, tmp_path))
        assert one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one), name
