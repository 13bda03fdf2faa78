"""One row of the table: a contender's scores under a protocol, how sure they are, and what it costs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import torch
from contenders import Contender, StandardCodec, at_rate, open_codec
from cost import measure_cost
from preparation import block_numbers, build_dataset, frame_rate, source_of, sources_of
from protocol import Protocol, Suite
from targets import States, load_targets, save_targets
from torch import Tensor
from tqdm import tqdm

import toolkit
from toolkit.assets import ASSETS
from toolkit.build import build_metrics
from toolkit.contracts import DataError, Metric
from toolkit.data import Batch, Source, ValLoader, write_video
from toolkit.data.datasets.sample_clips import SPLITS
from toolkit.evaluation.intervals import extrapolated, jackknife, union
from toolkit.metrics import Codebook
from toolkit.metrics.reduction import gather_over_processes, sum_over_processes
from toolkit.training.validation import evaluate_blocks, target_states

FEW = 2_000  # samples, below which Fréchet distances are marked
FRECHET = ("rfid", "rfvd")
CURVE = ({"type": "PSNR"}, {"type": "SSIM"}, {"type": "LPIPS", "net": "alex"})
NUM_VIDEOS, LONGEST_HISTOGRAM = 2, 512


@dataclass
class Bench:
    """A suite, ready to measure rows: its data, its blocks, and the targets' features once they are known.

    Attributes:
        suite: Name of the suite.
        settings: The suite.
        protocol: Its protocol, as it is run.
        folder: Where rows and videos are written.
        limit, path: Of the samples.
        batch_size, num_workers, device: Of no influence on scores.
        rank, world_size: This process among all.
        data_identity: Which files, by name and size.

    Raises:
        DataError, ValueError, AssetError: If the data or a metric is not to be had.
    """

    suite: str
    settings: Suite
    protocol: Protocol
    folder: Path
    path: str | None
    limit: int | None
    batch_size: int
    num_workers: int
    device: torch.device
    rank: int = 0
    world_size: int = 1
    targets: States | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.dataset = build_dataset(self.protocol, self.path, limit=self.limit)
        self.sources = sources_of(self.dataset)
        self.fps = frame_rate(self.protocol, self.sources)
        self.numbers = block_numbers(self.sources)
        files = [(Path(source).name, os.path.getsize(source) if os.path.exists(source) else None)
                 for source in self.sources]
        self.data_identity = {"files": len(files), "sha256": hashlib.sha256(json.dumps(files).encode()).hexdigest()}
        build_metrics(list(self.protocol.metrics), StandardCodec)  # now, lest a missing file ends a long run
        self.targets = load_targets(self.targets_file, num_blocks=len(set(self.numbers.values())))

    @property
    def targets_file(self) -> Path:
        """Where the targets' features of this protocol, data and process lie."""
        parts = [self.protocol.hash, self.data_identity, self.assets(), toolkit.__version__, torch.__version__]
        name = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
        return self.folder / "targets" / f"{name}-{self.rank}-of-{self.world_size}.safetensors"

    def loader(self) -> ValLoader:
        """A fresh pass over this process's samples."""
        source = Source(self.dataset, batch_size=self.batch_size, num_workers=self.num_workers)
        return ValLoader([source], rank=self.rank, world_size=self.world_size)

    def block_of(self, key: str) -> int:
        """The block of a sample."""
        return self.numbers[source_of(key, self.numbers)]

    def fingerprint(self, contender: Contender) -> str:
        """Of everything that decides a row's scores: a row that has it need not be measured again."""
        parts = [self.protocol.hash, self.data_identity, contender.identity, contender.name, contender.title,
                 toolkit.__version__]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def assets(self) -> dict[str, str]:
        """Pinned files that decide the scores: name -> sha256."""
        names = [f"clips/{clip}" for clip in SPLITS["full"]["eval"]] if self.path is None else []
        for config in self.protocol.metrics:
            if config["type"] == "LPIPS":
                names.append({"alex": "weights/lpips_alexnet", "vgg": "weights/lpips_vgg16"}[config["net"]])
            elif config["type"] in ("RFID", "InceptionDistances"):
                names.append("weights/inception_2015")
            elif config["type"] in ("RFVD", "VideoDistances"):
                names.append("weights/i3d_kinetics400")
        return {name: ASSETS[name].sha256 for name in names}


def codebook_use(codebook: Codebook) -> dict[str, Any]:
    """For a row: sizes, how often the most used codes were, each digit's entropy in nats."""
    counts = torch.cat(codebook.counts()).sort(descending=True).values
    return {"size": codebook.codebook_size, "num_codebooks": codebook.num_codebooks, "digits": list(codebook.digits),
            "num_indices": int(counts.sum()),
            "histogram": counts[:LONGEST_HISTOGRAM].tolist(), "digit_entropies": codebook.digit_entropies()}


def measure(bench: Bench, contender: Contender, *, order: int) -> dict[str, Any]:
    """The row of a contender. Every process calls this and gets the scores; the main one's row is whole.

    Raises:
        DataError: If no sample could be read.
        ValueError, RuntimeError: If it cannot be measured under this protocol.
    """
    codec, protocol = open_codec(contender.spec, bench.device), bench.protocol
    shown: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(batch: Batch, reconstruction: Tensor) -> None:
        for key, pixels, pixels_again in zip(batch.keys, batch.pixels, reconstruction, strict=True):
            stem = Path(source_of(key, bench.numbers)).stem
            if len(shown) < NUM_VIDEOS and (not bench.settings.shown or stem in bench.settings.shown):
                shown[key] = pixels.cpu(), pixels_again.cpu()

    metrics, seen = _evaluate(bench, codec, list(protocol.metrics), who=contender.title, on_batch=keep)
    scores, intervals = {}, {}
    for blocks in metrics:
        scores |= union(blocks).compute()
        if not isinstance(blocks[0], Codebook):  # how much is used grows with the data, and has no interval
            intervals |= {name: [interval.low, interval.high] for name, interval in jackknife(blocks).items()}
    beyond = {name: value for name in FRECHET for blocks in metrics if name in blocks[0].higher_is_better
              and (value := extrapolated(blocks, name)) is not None}
    rate = _rate(codec, contender)
    if rate is not None:
        scores["bits_per_pixel"] = rate
        if bench.fps is not None:
            scores["bits_per_second"] = rate * protocol.size**2 * bench.fps
    videos = _write_videos(bench, contender.name, shown) if protocol.modality == "video" else []
    curve = _curve(bench, contender, scores)
    codebook = next((union(blocks) for blocks in metrics if isinstance(blocks[0], Codebook)), None)
    row = {
        "name": contender.name, "kind": contender.kind, "title": contender.title, "order": order, "suite": bench.suite,
        "protocol": dataclasses.asdict(protocol), "protocol_hash": protocol.hash,
        "fingerprint": bench.fingerprint(contender), "config": getattr(codec, "config", None),
        "training": contender.training, "notes": list(contender.notes), "scores": _plain(scores),
        "intervals": {name: ends for name, ends in intervals.items() if all(map(math.isfinite, ends))},
        "extrapolated": _plain(beyond),
        "marks": {name: "few samples" for name in FRECHET if name in scores and seen["num_samples"] < FEW},
        **seen,
        "codebook": codebook_use(codebook) if codebook is not None else None, "parameters": codec.parameters(),
        "data": bench.data_identity, "assets": bench.assets(), "versions": versions(),
        "hardware": hardware(bench.device, bench.world_size), "curve": curve, "videos": videos[0] if videos else [],
        "original_videos": videos[1] if videos else []}
    if bench.rank == 0:
        row |= _cost(bench, contender)
    return row


def _evaluate(bench: Bench, codec: Any, configs: list[dict[str, Any]], *, who: str, whole: bool = True,
              on_batch: Any = None) -> tuple[list[list[Metric]], dict[str, Any]]:
    """Each metric's blocks, and what was read; an error in one process is one in all."""
    loader, errors, count = bench.loader(), [], 0

    def batches() -> Iterator[Batch]:
        nonlocal count
        share = len(range(bench.rank, len(bench.dataset), bench.world_size))
        with tqdm(total=share, desc=who, unit="sample", leave=False, disable=bench.rank > 0) as progress:
            try:
                for batch in loader:
                    count += len(batch.keys)
                    yield batch
                    progress.update(len(batch.keys))
            except DataError as error:  # nothing in this share: others may have some
                errors.append(str(error))

    def make_metrics() -> list[Metric]:
        return build_metrics(configs, codec)

    # A codec without codebook has one metric fewer, so targets are kept by what a metric is.
    known, problem = bench.targets if whole else None, None
    try:
        template = [_config_of(metric) for metric in make_metrics()]
        states = None if known is None else {number: [found.get(name) for name in template]
                                             for number, found in known.items()}
        blocks = evaluate_blocks(codec, batches(), make_metrics, block_of=bench.block_of, targets=states,
                                 num_blocks=len(set(bench.numbers.values())), device=bench.device, on_batch=on_batch)
    except (OSError, RuntimeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
    problems = [text for text in gather_over_processes(problem) if text]
    if problems:
        raise RuntimeError(problems[0])
    unreadable = {path: reason for found in gather_over_processes(loader.unreadable) for path, reason in found.items()}
    total = int(sum_over_processes([float(count)])[0])
    if not total:
        raise DataError(next(text for text in gather_over_processes(errors[0] if errors else None) if text))
    if whole and known is None:
        bench.targets = {number: {_config_of(metrics[number]): state for metrics, state in
                                  zip(blocks, states, strict=True) if state is not None}
                         for number, states in target_states(blocks).items()}
        save_targets(bench.targets_file, bench.targets)
    filled = sum(1 for block in blocks[0] if block.num_samples())
    reasons = {Path(path).name: reason.replace(path, Path(path).name) for path, reason in sorted(unreadable.items())}
    return blocks, {"num_samples": total, "num_blocks": filled, "unreadable": reasons}


def _config_of(metric: Metric) -> str:
    return json.dumps(metric.config, sort_keys=True, default=str)


def _rate(codec: Any, contender: Contender) -> float | None:
    """Bits per pixel: counted where the codec counts them."""
    if not hasattr(codec, "num_bits"):
        return contender.rate
    bits, pixels = sum_over_processes([float(codec.num_bits), float(codec.num_pixels)])
    return bits / pixels


def _curve(bench: Bench, contender: Contender, scores: dict[str, float]) -> list[dict[str, float]]:
    """Rate and distortion, at several rates where an untrained codec allows."""
    names = ("bits_per_pixel", "psnr", "ssim", "lpips_alex")
    points = [{name: scores[name] for name in names if name in scores}] if "bits_per_pixel" in scores else []
    configs = [config for config in CURVE if config in bench.protocol.metrics]
    for rate in contender.spec.get("curve", ()) if configs else ():
        spec = at_rate(contender.spec, rate)
        codec = open_codec(spec, bench.device)
        metrics, _ = _evaluate(bench, codec, configs, who=f"{contender.title} at {rate:.4f} bits/pixel", whole=False)
        reached = _rate(codec, dataclasses.replace(contender, rate=spec.get("bits", 0) * spec.get("cells", 0)))
        found = {name: value for blocks in metrics for name, value in union(blocks).compute().items()}
        points.append(_plain({"bits_per_pixel": reached} | found))
    return sorted(points, key=lambda point: point["bits_per_pixel"])


def _cost(bench: Bench, contender: Contender) -> dict[str, Any]:
    batch = next(iter(bench.loader()), None)
    if batch is None:
        return {}
    return measure_cost(contender.spec, batch.pixels.numpy(), str(bench.device), torch.get_num_threads())


def _write_videos(bench: Bench, name: str, shown: dict[str, tuple[Tensor, Tensor]]) -> tuple[list[str], list[str]]:
    """Write the first samples that may be shown, beside their originals; paths relative to the results' folder."""
    keys = sorted(key for found in gather_over_processes(list(shown)) for key in found)[:NUM_VIDEOS]
    files = [(f"videos/{name}_{number}.mp4", f"videos/original_{number}.mp4") for number in range(len(keys))]
    (bench.folder / "videos").mkdir(parents=True, exist_ok=True)
    for key, (again, original) in zip(keys, files, strict=True):
        if key in shown:
            write_video(bench.folder / again, shown[key][1], fps=bench.fps)
            write_video(bench.folder / original, shown[key][0], fps=bench.fps)
    return [again for again, _ in files], [original for _, original in files]


def _plain(scores: dict[str, float]) -> dict[str, float | None]:
    """As JSON has them: what is not finite is no score."""
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}


def versions() -> dict[str, str]:
    """Of the software that made a row."""
    return {"toolkit": toolkit.__version__, "torch": torch.__version__, "av": av.__version__,
            "python": platform.python_version()}


def hardware(device: torch.device, num_processes: int) -> dict[str, Any]:
    """That made a row."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        name = next((line.partition(":")[2].strip() for line in info.read_text().splitlines()
                     if line.startswith("model name")), name)
    return {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu", "processor": name,
            "cores": os.cpu_count(), "threads": torch.get_num_threads(), "processes": num_processes}
