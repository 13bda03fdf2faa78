"""Convolutional networks of several widths, and plain ones with the same weights, alternately in one process."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from plain import PlainTokenizer
from torch import Tensor, nn

from toolkit import Tokenizer, build_tokenizer

SIDES = {8: 64, 32: 64, 128: 32}  # width of the network (channels) -> height and width of its input
TRAINING_WIDTHS = (8, 32)  # widths that have rows of training steps too
FRAMES = (1, 9, 17)
HEADER = ["network", "toolkit (ms)", "plain (ms)", "toolkit / plain", "stored activations, toolkit (MiB)",
          "plain (MiB)", "toolkit / plain"]


def networks(width: int) -> tuple[Tokenizer, PlainTokenizer]:
    """An encoder and decoder of two levels, and plain ones with the same weights."""
    torch.manual_seed(0)
    network = dict(filters=width, channel_multipliers=(1, 2), num_res_blocks=1, temporal_downsample=(True,))
    tokenizer = build_tokenizer(dict(encoder=dict(type="MAGVIT2Encoder", **network),
                                     quantizer=dict(type="LFQ", bits=18),
                                     decoder=dict(type="MAGVIT2Decoder", **network)))
    return tokenizer, PlainTokenizer(tokenizer)


def stored_bytes(forward: Callable[[], Tensor], parameters: list[nn.Parameter]) -> int:
    """What autograd stores for the backward pass, without the parameters."""
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    excluded = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    assert output.requires_grad
    return sum(storage.nbytes() for address, storage in storages.items() if address not in excluded)


def forwards(width: int, frames: int) -> dict[str, tuple[nn.Module, Callable[[], Tensor]]]:
    """Version -> its module, and a function without arguments that returns the reconstruction."""
    tokenizer, plain = networks(width)
    pixels = torch.rand(1, 3, frames, SIDES[width], SIDES[width], generator=torch.Generator().manual_seed(1)) * 2 - 1
    return {"toolkit": (tokenizer, lambda: tokenizer.decoder(tokenizer.encoder(pixels))),
            "plain": (plain, lambda: plain.decode(plain.encode(pixels)))}


def step(module: nn.Module, forward: Callable[[], Tensor]) -> Callable[[], None]:
    """A training step: mean square, backward, Adam."""
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-5, fused=True)

    def run() -> None:
        forward().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return run


def medians(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each version, measured alternately after a first run."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def row(width: int, frames: int, *, train: bool, rounds: int) -> list[str]:
    """Times of both versions and, in training, the activations they store."""
    versions, stored = forwards(width, frames), ["", "", ""]
    if train:
        toolkit, plain = (stored_bytes(forward, list(module.parameters())) for module, forward in versions.values())
        stored = [f"{toolkit / 2**20:.1f}", f"{plain / 2**20:.1f}", f"{toolkit / plain:.2f}"]
        seconds = medians({name: step(*version) for name, version in versions.items()}, rounds)
    else:
        for module, _ in versions.values():
            module.eval()
        with torch.no_grad():
            seconds = medians({name: forward for name, (_, forward) in versions.items()}, rounds)
    name = f"width {width}, T = {frames}, {'training step' if train else 'eval'}"
    return [name, f"{1e3 * seconds['toolkit']:.1f}", f"{1e3 * seconds['plain']:.1f}",
            f"{seconds['toolkit'] / seconds['plain']:.2f}", *stored]


def table(rounds: int) -> list[list[str]]:
    """All widths and lengths: eval at each width, training steps at the smaller ones."""
    rows = []
    for train in (False, True):
        for width in TRAINING_WIDTHS if train else SIDES:
            for frames in FRAMES:
                print(f"width {width}, T = {frames}, {'training step' if train else 'eval'}", file=sys.stderr)
                rows.append(row(width, frames, train=train, rounds=rounds))
    return rows
