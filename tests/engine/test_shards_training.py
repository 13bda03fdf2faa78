"""Training from tars: a resumed run is the undisturbed one, and readers share each pass."""

from __future__ import annotations

import itertools
import shutil

import pytest
from data.numbered import encode
from data.tars import write_image_shards, write_shard
from mmengine.config import Config
from safetensors.torch import load_file
from torchdata.stateful_dataloader import StatefulDataLoader
from training import tiny

from toolkit.build import build_trainer
from toolkit.data import ImageShards, TrainLoader
from toolkit.data.loading.sampling import collate
from toolkit.data.loading.streams import StreamSamples

pytestmark = pytest.mark.engine
as_in_a_new_process = tiny.as_in_a_new_process
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


@pytest.mark.parametrize("sizes", [(7, 5, 9), (3, 1, 4, 2, 3, 1, 2, 3, 5)], ids=["fewer shards", "more shards"])
@pytest.mark.parametrize("stop", [None, 1], ids=["at once", "resumed"])
def test_two_nodes_of_two_processes_of_two_workers_see_each_sample_of_a_pass_once(tmp_path, sizes, stop):
    write_image_shards(tmp_path, sizes=sizes)

    def loader(rank):
        images = ImageShards(path=str(tmp_path), size=12)
        return StatefulDataLoader(StreamSamples(images, seed=5, rank=rank, world_size=4, endless=False), batch_size=2,
                                  num_workers=2, collate_fn=collate)

    shares = []
    for rank in range(4):
        first, seen = loader(rank), []
        batches = iter(first)
        if stop:
            seen += itertools.islice(batches, stop)
            second = loader(rank)
            second.load_state_dict(first.state_dict())
            list(batches)  # its workers end with it
            batches = iter(second)
        shares.append([key for batch in itertools.chain(seen, batches) for key in batch.keys])
    numbers = sorted(int(key[-7:-4]) for key in itertools.chain(*shares))
    assert numbers == list(range(sum(sizes))) and all(shares)
