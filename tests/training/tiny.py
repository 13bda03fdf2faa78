"""The smallest real run: moving stripes of 6 x 32 x 32, two levels of 8 filters, clips of 5 x 16 x 16.

A test module takes its fixtures by name: ``clips = tiny.clips``.
"""

import copy
import functools
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from mmengine.config import Config
from safetensors.torch import load_file
from torch import nn

from toolkit.build import build_trainer
from toolkit.data import write_image, write_video
from toolkit.training import Trainer

NETWORK = dict(filters=8, channel_multipliers=(1, 2), num_res_blocks=1, temporal_downsample=(True,))
DISCRIMINATOR = dict(type="StyleGANDiscriminator", filters=8, channel_multipliers=(2,), size=(5, 16, 16))
IMAGE_DISCRIMINATOR = {**DISCRIMINATOR, "size": (1, 16, 16), "temporal_kernel": 1}
assert_equal = functools.partial(torch.testing.assert_close, rtol=0, atol=0)  # of tensors, and of dicts of them
ADVERSARIAL = dict(loss=dict(type="NonSaturating"), weight=0.1, lecam=dict(weight=0.01, decay=0.9),
                   r1=dict(weight=0.5, every=2))
ADAPTIVE = dict(loss=dict(type="Hinge"), weight=0.8, adaptive=dict(type="AdaptiveWeight"), discriminator_weight=0.5)
GAN_TERMS = {"lecam", "r1", "adversarial", "discriminator", "logits_real", "logits_fake"}


def stripes(number: int, *, num_frames: int, height: int, width: int) -> torch.Tensor:
    """(3, T, H, W) in [-1, 1]; the number decides direction and colour."""
    t, y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in (num_frames, height, width)),
                             indexing="ij")
    return torch.stack([torch.sin((x + number * y) / 3 + t + channel * number) for channel in range(3)])


def write_clips(folder: Path, *, count: int = 3, num_frames: int = 6, height: int = 32, width: int = 32) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        write_video(folder / f"{number}.mp4", stripes(number, num_frames=num_frames, height=height, width=width), fps=8)
    return folder


def write_images(folder: Path, *, count: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        write_image(folder / f"{number}.png", stripes(number, num_frames=1, height=24, width=24))
    return folder


def tiny_config(clips: Path, *, gan: bool = False, **changes: Any) -> dict[str, Any]:
    """A whole config on the clips of a folder; ``changes`` are dotted keys, with __ for the dots."""
    network = {"encoder": dict(type="MAGVIT2Encoder", **NETWORK), "decoder": dict(type="MAGVIT2Decoder", **NETWORK)}
    dataset = dict(type="VideoClips", path=str(clips), num_frames=5, size=16)
    config = dict(
        tokenizer=dict(**network, quantizer=dict(type="LFQ", bits=6)),
        objective=dict(losses=dict(reconstruction=dict(loss=dict(type="L2"), weight=5.0))),
        data=dict(train=dict(dataset=dict(dataset), batch_size=2),
                  val=dict(dataset=dict(dataset, train=False), batch_size=2)),
        metrics=[dict(type="PSNR"), dict(type="SSIM"), dict(type="Codebook")],
        training=dict(max_steps=4, learning_rate=1e-3, ema_decay=0.9, log_every=1, validate_every=100, num_samples=2,
                      checkpoints=dict(every=100, keep=None)),
        seed=0)
    if gan:
        config["discriminator"] = dict(DISCRIMINATOR)
        config["objective"]["adversarial"] = copy.deepcopy(ADVERSARIAL)
    config = Config(config)
    config.merge_from_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config.to_dict()


def patchgan_config(clips, *, temporal_kernel: int = 1, **changes):
    patchgan = dict(type="PatchGANDiscriminator", filters=8, num_layers=2, temporal_kernel=temporal_kernel)
    return tiny_config(clips, discriminator=patchgan, objective__adversarial=ADAPTIVE, **changes)


def write_config(path: Path, config: dict[str, Any]) -> Path:
    path.write_text("".join(f"{key} = {value!r}\n" for key, value in config.items()))
    return path


def metric_lines(work_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work_dir / "metrics.jsonl").read_text().splitlines()]


def train_lines(work_dir: Path, modality: str = "video") -> list[dict[str, Any]]:
    return [line for line in metric_lines(work_dir)
            if line["split"] == "train" and line["modality"] == modality and "total" in line]


def build(config: dict[str, Any], work_dir: Path, *, resume: bool = False) -> Trainer:
    return build_trainer(Config(config), work_dir=work_dir, resume=resume)


def train(config: dict[str, Any], work_dir: Path, *, resume: bool = False) -> Trainer:
    trainer = build(config, work_dir, resume=resume)
    assert trainer.run()
    return trainer


def copy_checkpoint(source: Path, target: Path, *, step: int) -> Path:
    """A work dir with one checkpoint of another run."""
    shutil.copytree(source / "checkpoints" / f"step_{step}", target / "checkpoints" / f"step_{step}")
    return target


def tensors_of(network: nn.Module | Path) -> dict[str, torch.Tensor]:
    """A copy of the tensors of a network, or of a file."""
    if isinstance(network, Path):
        return load_file(network)
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def join_two_processes(rank: int, port: int) -> None:
    """Make accelerate take this process for one of two on CPUs."""
    torch.set_num_threads(1)
    place = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, LOCAL_WORLD_SIZE=2, MASTER_ADDR="127.0.0.1",
                 MASTER_PORT=port, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS=1)
    os.environ.update({name: str(value) for name, value in place.items()})


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of three clips."""
    return write_clips(tmp_path_factory.mktemp("data") / "clips")


@pytest.fixture(autouse=True)
def as_in_a_new_process():
    """An accelerator not yet made, since it keeps its first precision, and one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(threads)
