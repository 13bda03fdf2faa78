"""The cases of ``speed.py``. Each takes the name of a version and returns the function to measure.

The functions return numbers, which agree where the versions compute the same.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from plain import PlainTokenizer, discriminate, full_softmax_entropies
from torch import Tensor

from toolkit import Tokenizer, build_objective, build_tokenizer, load_config
from toolkit.build import build_component
from toolkit.profiling.cost import matrix_rate
from toolkit.registry import DISCRIMINATORS

Run = Callable[[], dict[str, float]]
ROOT = Path(__file__).parents[1]


def video_config(filters: int) -> Any:
    """configs/magvit2_video.py with ``filters`` in all three networks."""
    widths = {f"tokenizer.{component}.filters": filters for component in ("encoder", "decoder")}
    return load_config(ROOT / "configs/magvit2_video.py", widths | {"discriminator.filters": filters})


def clip(frames: int, side: int) -> Tensor:
    """Smooth noise (1, 3, T, H, W) in [-1, 1]."""
    coarse = torch.rand(1, 3, 1 + frames // 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (frames, side, side), mode="trilinear")


def entropy(version: str, *, filters: int, side: int) -> Run:
    """Both entropies of 2^18 codes over N = 1280 positions, forward and backward."""
    from toolkit.quantizers.entropy import binary_entropies

    function = {"toolkit": binary_entropies, "plain": full_softmax_entropies}[version]
    latents = torch.randn(1280, 18, generator=torch.Generator().manual_seed(0)).mul_(0.1).requires_grad_()

    def run() -> dict[str, float]:
        latents.grad = None
        per_sample, codebook = function(latents, 100.0)
        (per_sample - codebook).backward()
        return {"per sample": per_sample.item(), "codebook": codebook.item(),
                "gradient norm": latents.grad.norm().item()}
    return run


def image(version: str, *, filters: int, side: int) -> Run:
    """Reconstruction of one image by the full-width video network."""
    return _round_trip(version, filters, clip(1, side))


def video(version: str, *, filters: int, side: int) -> Run:
    """Reconstruction of 17 frames by the full-width network."""
    return _round_trip(version, filters, clip(17, side))


def encode(version: str, *, filters: int, side: int) -> Run:
    """17 frames to latents, full width."""
    return _half("encode", version, filters, clip(17, side))


def decode(version: str, *, filters: int, side: int) -> Run:
    """Codes to 17 frames, full width."""
    noise = torch.randn(1, 18, 5, side // 8, side // 8, generator=torch.Generator().manual_seed(0))
    return _half("decode", version, filters, torch.where(noise > 0, 1.0, -1.0))


def _tokenizer(version: str, filters: int) -> Tokenizer | PlainTokenizer:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(video_config(filters).tokenizer)
    return tokenizer if version == "toolkit" else PlainTokenizer(tokenizer)


def _round_trip(version: str, filters: int, pixels: Tensor) -> Run:
    tokenizer = _tokenizer(version, filters).eval()

    @torch.no_grad()
    def run() -> dict[str, float]:
        output = tokenizer(pixels)
        return {"std": (output.reconstruction if version == "toolkit" else output[0]).std().item()}
    return run


def _half(half: str, version: str, filters: int, tensor: Tensor) -> Run:
    tokenizer = _tokenizer(version, filters).eval()
    # The toolkit's tokenizer.encoder or tokenizer.decoder; PlainTokenizer.encode or PlainTokenizer.decode.
    network = getattr(tokenizer, f"{half}r") if version == "toolkit" else getattr(tokenizer, half)

    @torch.no_grad()
    def run() -> dict[str, float]:
        return {"std": network(tensor).std().item()}
    return run


def gemm_share(version: str, *, filters: int, side: int) -> Run:
    """FLOP/s of the convolutions over those of sgemm, both versions with the toolkit's FLOPs; 17 frames, full width."""
    from torch.profiler import ProfilerActivity, profile
    from torch.utils.flop_counter import FlopCounterMode

    pixels = clip(17, side)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        _tokenizer("toolkit", filters).eval()(pixels)
    flops = sum(count for operation, count in counter.get_flop_counts()["Global"].items() if "conv" in str(operation))
    tokenizer = _tokenizer(version, filters).eval()

    def sgemm_rate() -> float:
        return matrix_rate(torch.device("cpu"), torch.float32, seconds=5.0)

    @torch.no_grad()
    def run() -> dict[str, float]:
        best = sgemm_rate()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            tokenizer(pixels)
        best = max(best, sgemm_rate())
        seconds = sum(event.cpu_time_total for event in profiler.key_averages()
                      if event.key == "aten::convolution") / 1e6
        return {"share of sgemm": flops / seconds / best, "sgemm GFLOP/s": best / 1e9, "convolutions s": seconds}
    return run


def step(version: str, *, filters: int, side: int) -> Run:
    """A training step of 17 frames at full width, batch 1: GAN, LPIPS, entropy, both optimizers."""
    config = video_config(filters)
    pixels, tokenizer = clip(17, side), _tokenizer("plain" if version == "plain" else "toolkit", filters).train()
    config.discriminator["size"] = tuple(pixels.shape[2:])
    discriminator = build_component(DISCRIMINATORS, config.discriminator)
    components = tokenizer.tokenizer if version == "plain" else tokenizer
    objective = build_objective(config.objective, quantizer=components.quantizer)
    for network in (components.encoder, components.decoder):
        network.activation_checkpointing = version == "checkpointed"
    if version != "plain":
        discriminator.to(memory_format=torch.channels_last_3d)
    optimizers = [torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.0, 0.99), fused=True)
                  for network in (tokenizer, discriminator)]

    def update(optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()
        for each in optimizers:
            each.zero_grad(set_to_none=True)

    def run() -> dict[str, float]:
        output = tokenizer(pixels)
        total, _ = objective.generator_loss(output, pixels, step=1, discriminator=discriminator)
        total.backward()
        update(optimizers[0])
        output.reconstruction = output.reconstruction.detach()
        discriminator_total, _ = objective.discriminator_loss(output, pixels, step=1, discriminator=discriminator)
        discriminator_total.backward()
        update(optimizers[1])
        return {"generator": total.item(), "discriminator": discriminator_total.item()}

    def run_plain() -> dict[str, float]:  # the generator's step also computes the discriminator's gradients
        reconstruction, latents, codes = tokenizer(pixels)
        entropies = full_softmax_entropies(latents.movedim(1, -1).flatten(0, -2), 100.0)
        frame_pair = [x.movedim(2, 1).flatten(0, 1) for x in (reconstruction, pixels)]
        terms = objective.adversaries["video"]
        fake = discriminate(discriminator, reconstruction)
        weights = {"per_sample_entropy": entropies[0], "codebook_entropy": entropies[1],
                   "commitment": (latents - codes.detach()).square().mean()}
        # The weights 5, 0.1, 0.1 and 0.001 are those of the config.
        total = (5 * (reconstruction - pixels).square().mean() + 0.1 * objective.losses["perceptual"].network(
            *frame_pair).mean() + 0.1 * terms.loss.generator(fake) + sum(
            _at_step_1(objective.quantizer_weights[name]) * loss for name, loss in weights.items()))
        total.backward()
        update(optimizers[0])
        reconstruction = reconstruction.detach()
        real, fake = discriminate(discriminator, torch.cat([pixels, reconstruction])).chunk(2)
        discriminator_total = terms.loss.discriminator(real, fake) + 0.001 * terms.lecam(real, fake)
        discriminator_total.backward()
        update(optimizers[1])
        return {"generator": total.item(), "discriminator": discriminator_total.item()}
    return run_plain if version == "plain" else run


def _at_step_1(weight: Any) -> float:
    from toolkit.training.settings import value_at

    return value_at(weight, 1)


def stream_case(frames: int) -> Callable[..., Run]:
    """The case of a video of ``frames`` frames, with its own network and size."""
    def case(version: str, *, filters: int, side: int) -> Run:
        torch.manual_seed(0)
        network = dict(filters=16, channel_multipliers=(1, 2, 2), num_res_blocks=1, temporal_downsample=(True, True))
        tokenizer = build_tokenizer(dict(encoder=dict(type="MAGVIT2Encoder", **network),
                                         quantizer=dict(type="LFQ", bits=18),
                                         decoder=dict(type="MAGVIT2Decoder", **network))).eval()

        def run() -> dict[str, float]:
            if version == "plain":
                indices, size = tokenizer.tokenize(clip(frames, 64), return_size=True)
                return {"frames out": tokenizer.detokenize(indices, size).shape[2]}
            chunks = (clip(16, 64)[:, :, :min(16, frames - start)] for start in range(0, frames, 16))
            pixels = tokenizer.detokenize_stream(tokenizer.tokenize_stream(chunks), size=(frames, 64, 64))
            return {"frames out": sum(chunk.shape[2] for chunk in pixels)}
        return run
    case.__doc__ = f"{frames:,} frames of 64x64 to tokens and to pixels, in chunks of 16; plain: in one piece."
    return case


LONG_VIDEO = "SPEED_LONG_VIDEO"


def long_video(minutes: float) -> Path:
    """Write a 720p video of 25 frames per second, H.264 with a keyframe every 250 frames."""
    import av
    import numpy as np

    path = Path(tempfile.mkdtemp(prefix="speed_")) / "long.mp4"
    texture = np.random.default_rng(0).integers(0, 256, (45, 80, 3), np.uint8).repeat(32, 0).repeat(32, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast", "g": "250"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for number in range(round(minutes * 60 * 25)):
            y, x = (number * 3) % 720, (number * 5) % 1280
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(texture[y:y + 720, x:x + 1280]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decode_plainly(path: str, *, one_group: bool = False) -> int:
    """Decode a file, or one group of pictures in its middle; the number of frames."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        if one_group:
            container.seek(int(stream.duration / 2), stream=stream)
        count = 0
        for frame in container.decode(stream):
            if one_group and count and frame.key_frame:
                break
            count += 1
    return count


def clip_reading(plain: str) -> Callable[..., Run]:
    """The case of reading a random clip. Plain decodes the whole "file", or one group of pictures ("gop")."""
    def case(version: str, *, filters: int, side: int) -> Run:
        from toolkit.data import VideoClips

        path = os.environ[LONG_VIDEO]
        clips = VideoClips(path=path, num_frames=17, size=128)
        seeds = iter(range(1000))

        def run() -> dict[str, float]:
            if version == "plain":
                return {"frames": decode_plainly(path, one_group=plain == "gop")}
            torch.manual_seed(next(seeds))
            return {"frames": clips[0]["pixels"].shape[1]}
        return run
    whole = {"file": "the whole file", "gop": "one group of pictures"}[plain]
    case.__doc__ = f"A random clip of 17 frames of a long 720p video, resized; plain: decoding {whole}."
    return case


def clip_index(version: str, *, filters: int, side: int) -> Run:
    """The index of a long 720p video, which its first clip waits for; plain: decoding the whole file."""
    from toolkit.data.reading.video_file import INDEXES, VideoFile

    path = os.environ[LONG_VIDEO]

    def run() -> dict[str, float]:
        if version == "plain":
            return {"frames": decode_plainly(path)}
        INDEXES.clear()
        with VideoFile(path) as video:
            return {"frames": len(video.times)}
    return run


@cache
def cases() -> dict[str, Callable[..., Run]]:
    """All cases by name, the quick ones first."""
    streams = {f"stream_{frames}": stream_case(frames) for frames in (100, 1000, 5000)}
    reading = {f"clip_vs_{plain}": clip_reading(plain) for plain in ("gop", "file")} | dict(clip_index=clip_index)
    return dict(entropy=entropy, image=image) | streams | reading | dict(
        video=video, encode=encode, decode=decode, gemm_share=gemm_share, step=step)


VERSIONS = {"step": ("toolkit", "checkpointed", "plain")}  # other cases have "toolkit" and "plain"
# Timed runs in one process, after a run to warm up. The other cases have one run, without a warm-up.
REPEATS = {"image": 5, "video": 2, "clip_vs_gop": 10, "clip_vs_file": 10, "clip_index": 3}
