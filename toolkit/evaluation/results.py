"""Results: the scores of an entry under a protocol, their intervals and costs, as one JSON row."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

import toolkit
from toolkit.assets import ASSETS
from toolkit.build import build_metrics
from toolkit.contracts import Baseline, DataError, Metric
from toolkit.data import Batch, Source, ValLoader, write_video
from toolkit.data.datasets.files import SPLITS
from toolkit.evaluation.cost import measure_cost
from toolkit.evaluation.entries import Codec, Entry, TokenizerCodec, num_parameters, open_codec
from toolkit.evaluation.intervals import extrapolate, jackknife, union
from toolkit.evaluation.preparation import (
    block_numbers,
    build_dataset,
    frame_rate,
    source_of,
    sources_of,
    with_values,
)
from toolkit.evaluation.protocol import Protocol, Suite
from toolkit.io.atomic_write import atomic_write
from toolkit.layers.distributed import gather_objects_over_processes, sum_numbers_over_processes
from toolkit.metrics import Codebook
from toolkit.metrics.columns import columns_of
from toolkit.training.validation import evaluate_blocks, target_states

SCORES_VERSION = "0.1.0"  # the toolkit version that last changed scores: rows of later versions stay valid
FEW_SAMPLES = 2_000  # Fréchet distances of fewer samples are marked
FRECHET = ("rfid", "rfvd")
CURVE = ({"type": "PSNR"}, {"type": "SSIM"}, {"type": "LPIPS", "net": "alex"})
NUM_VIDEOS, MAX_HISTOGRAM_ENTRIES = 2, 512
Row = Mapping[str, Any]
States = dict[int, dict[str, dict[str, Tensor]]]  # block -> metric -> name -> tensor of the targets' features


@dataclass
class Evaluation:
    """A suite with its data and the settings of a run, shared by all entries."""

    suite: str  # its name
    settings: Suite
    protocol: Protocol  # of the run, by default the suite's
    folder: Path  # of rows and videos
    path: str | None  # of the data
    limit: int | None  # number of samples to use
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
        self.num_blocks = len(set(self.numbers.values()))
        files = [(Path(source).name, os.path.getsize(source) if os.path.exists(source) else None)
                 for source in self.sources]
        self.data_identity = {"files": len(files), "sha256": hashlib.sha256(json.dumps(files).encode()).hexdigest()}
        build_metrics(list(self.protocol.metrics), Baseline)  # fails early if a file is missing
        self.targets = load_targets(self.targets_file, num_blocks=self.num_blocks)

    @property
    def targets_file(self) -> Path:
        """File of the targets' features of this protocol, data and process."""
        values = [self.protocol.hash, self.data_identity, self.assets(), toolkit.__version__, torch.__version__]
        name = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:20]
        return self.folder / "targets" / f"{name}-{self.rank}-of-{self.world_size}.safetensors"

    def loader(self) -> ValLoader:
        """A new loader of the samples of this process."""
        source = Source(self.dataset, batch_size=self.batch_size, num_workers=self.num_workers)
        return ValLoader([source], rank=self.rank, world_size=self.world_size)

    def block_of(self, key: str) -> int:
        """Number of the block of a sample."""
        return self.numbers[source_of(key, self.numbers)]

    def fingerprint(self, entry: Entry) -> str:
        """Hash of everything that scores depend on; a row with an equal fingerprint is not measured again."""
        values = [self.protocol.hash, self.data_identity, entry.identity, entry.name, entry.title, SCORES_VERSION]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def assets(self) -> dict[str, str]:
        """Pinned files that scores depend on: name -> sha256."""
        names = [f"clips/{clip}" for clip in SPLITS["full"]["eval"]] if self.path is None else []
        for config in self.protocol.metrics:
            if config["type"] == "LPIPS":
                names.append({"alex": "weights/lpips_alexnet", "vgg": "weights/lpips_vgg16"}[config["net"]])
            elif config["type"] in ("RFID", "InceptionDistances"):
                names.append("weights/inception_2015")
            elif config["type"] in ("RFVD", "VideoDistances"):
                names.append("weights/i3d_kinetics400")
        return {name: ASSETS[name].sha256 for name in names}


def measure(evaluation: Evaluation, entry: Entry, *, order: int) -> dict[str, Any]:
    """The row of an entry. Every process calls this and gets all scores; only process 0 gets the costs."""
    codec, protocol = open_codec(entry.spec, evaluation.device), evaluation.protocol
    video_samples: dict[str, tuple[Tensor, Tensor]] = {}

    def keep_video_samples(batch: Batch, reconstructions: Tensor) -> None:
        for key, pixels, reconstruction in zip(batch.keys, batch.pixels, reconstructions, strict=True):
            stem = Path(source_of(key, evaluation.numbers)).stem
            if len(video_samples) < NUM_VIDEOS and (not evaluation.settings.shown or stem in evaluation.settings.shown):
                video_samples[key] = pixels.cpu(), reconstruction.cpu()

    measured = _evaluate(evaluation, codec, list(protocol.metrics), title=entry.title, on_batch=keep_video_samples)
    scores, intervals, columns = {}, {}, {}
    for blocks in measured.metrics:
        scores |= union(blocks).compute()
        columns |= {name: dataclasses.asdict(column) | {"higher_is_better": blocks[0].higher_is_better.get(name)}
                    for name, column in columns_of(blocks[0]).items()}
        if not isinstance(blocks[0], Codebook):  # its scores grow with the data, so they have no interval
            intervals |= {name: [interval.low, interval.high] for name, interval in jackknife(blocks).items()}
    limits = {name: value for name in FRECHET for blocks in measured.metrics if name in blocks[0].higher_is_better
              and (value := extrapolate(blocks, name)) is not None}
    if measured.rate is not None:
        scores["bits_per_pixel"] = measured.rate
        if evaluation.fps is not None:
            scores["bits_per_second"] = measured.rate * protocol.size**2 * evaluation.fps
    videos = _write_videos(evaluation, entry.name, video_samples) if protocol.modality == "video" else ([], [])
    codebook = next((union(blocks) for blocks in measured.metrics if isinstance(blocks[0], Codebook)), None)
    row = {
        "name": entry.name, "kind": entry.kind, "title": entry.title, "order": order, "suite": evaluation.suite,
        "protocol": dataclasses.asdict(protocol), "protocol_hash": protocol.hash,
        "fingerprint": evaluation.fingerprint(entry),
        "config": codec.tokenizer.config if isinstance(codec, TokenizerCodec) else None,
        "training": entry.training, "notes": list(entry.notes), "scores": _finite_or_none(scores),
        "intervals": {name: ends for name, ends in intervals.items() if all(map(math.isfinite, ends))},
        "extrapolated": _finite_or_none(limits), "columns": columns,
        "marks": {name: "few samples" for name in FRECHET if name in scores and measured.num_samples < FEW_SAMPLES},
        "num_samples": measured.num_samples, "num_blocks": measured.num_blocks, "unreadable": measured.unreadable,
        "codebook": _codebook_use(codebook) if codebook is not None else None, "parameters": num_parameters(codec),
        "data": evaluation.data_identity, "assets": evaluation.assets(), "versions": versions(),
        "hardware": hardware(evaluation.device, evaluation.world_size), "curve": _curve(evaluation, entry, scores),
        "videos": videos[0], "original_videos": videos[1]}
    batch = next(iter(evaluation.loader()), None) if evaluation.rank == 0 else None
    if batch is not None:
        row |= measure_cost(entry.spec, batch.pixels.numpy(), str(evaluation.device), torch.get_num_threads())
    return row


class _CountingCodec:
    """Calls a codec and counts its bits and pixels; bits are counted if it has indices."""

    def __init__(self, codec: Codec, values: str):
        self.codec, self.values, self.bits, self.pixels = codec, values, None, 0

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        reconstruction, indices = self.codec(pixels)
        if indices is not None:
            self.bits = (self.bits or 0.0) + indices.numel() * math.log2(self.codec.codebook_size)
        self.pixels += pixels[:, 0].numel()
        return with_values(reconstruction, self.values), indices

    def rate(self) -> float | None:
        """Bits per pixel over all processes; None for a continuous codec."""
        bits = self.bits
        if self.codec.bits_per_pixel is not None:
            bits = self.codec.bits_per_pixel * self.pixels
        counts = [(bits, pixels) for bits, pixels in gather_objects_over_processes((bits, self.pixels))
                  if bits is not None]
        return sum(bits for bits, _ in counts) / sum(pixels for _, pixels in counts) if counts else None


@dataclass
class _Measured:
    """Results of one pass over the data: the blocks of each metric, the rate, and numbers of samples."""

    metrics: list[list[Metric]]
    rate: float | None
    num_samples: int
    num_blocks: int
    unreadable: dict[str, str]


def _evaluate(evaluation: Evaluation, codec: Codec, configs: list[dict[str, Any]], *, title: str,
              is_curve: bool = False, on_batch: Callable[[Batch, Tensor], None] | None = None) -> _Measured:
    """One pass of all processes over the data; an error in one process is raised in all."""
    loader, errors, count = evaluation.loader(), [], 0

    def batches() -> Iterator[Batch]:
        nonlocal count
        share = len(range(evaluation.rank, len(evaluation.dataset), evaluation.world_size))
        with tqdm(total=share, desc=title, unit="sample", leave=False, disable=evaluation.rank > 0) as progress:
            try:
                for batch in loader:
                    count += len(batch.keys)
                    yield batch
                    progress.update(len(batch.keys))
            except DataError as error:  # no readable sample on this process; other processes may have some
                errors.append(str(error))

    def make_metrics() -> list[Metric]:
        return build_metrics(configs, codec)

    stored_targets, problem = None if is_curve else evaluation.targets, None
    counting = _CountingCodec(codec, evaluation.protocol.values)
    try:
        # By config: without a codebook there is one metric less, so positions differ.
        names = [_config_of(metric) for metric in make_metrics()]
        states = None if stored_targets is None else {number: [block.get(name) for name in names]
                                             for number, block in stored_targets.items()}
        blocks = evaluate_blocks(counting, batches(), make_metrics, block_of=evaluation.block_of, targets=states,
                                 num_blocks=evaluation.num_blocks, device=evaluation.device, on_batch=on_batch)
    except (OSError, RuntimeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
    problems = [text for text in gather_objects_over_processes(problem) if text]
    if problems:
        raise RuntimeError(problems[0])
    reasons = {path: reason for share in gather_objects_over_processes(loader.unreadable)
               for path, reason in share.items()}
    total = int(sum_numbers_over_processes([float(count)])[0])
    if not total:
        raise DataError(next(text for text in gather_objects_over_processes(errors[0] if errors else None) if text))
    if not is_curve and stored_targets is None:
        evaluation.targets = {number: {name: state for name, state in zip(names, states, strict=True)
                                       if state is not None} for number, states in target_states(blocks).items()}
        save_targets(evaluation.targets_file, evaluation.targets)
    return _Measured(
        blocks, counting.rate(), total, num_blocks=sum(1 for block in blocks[0] if block.num_samples()),
        unreadable={Path(path).name: text.replace(path, Path(path).name) for path, text in sorted(reasons.items())})


def _config_of(metric: Metric) -> str:
    return json.dumps(metric.config, sort_keys=True, default=str)


def _curve(evaluation: Evaluation, entry: Entry, scores: dict[str, float]) -> list[dict[str, float]]:
    """Points of rate and distortion: several for a baseline with the argument ``bits_per_pixel``."""
    names = ("bits_per_pixel", "psnr", "ssim", "lpips_alex")
    points = [{name: scores[name] for name in names if name in scores}] if "bits_per_pixel" in scores else []
    configs = [config for config in CURVE if config in evaluation.protocol.metrics]
    for rate in entry.spec.get("curve", ()) if configs else ():
        codec = open_codec(entry.spec | {"bits_per_pixel": rate}, evaluation.device)
        measured = _evaluate(evaluation, codec, configs, title=f"{entry.title} at {rate:.4f} bits/pixel", is_curve=True)
        point = {name: value for blocks in measured.metrics for name, value in union(blocks).compute().items()}
        points.append(_finite_or_none({"bits_per_pixel": measured.rate} | point))
    return sorted(points, key=lambda point: point["bits_per_pixel"])


def _codebook_use(codebook: Codebook) -> dict[str, Any]:
    """Sizes, counts of the most used codes, and the entropy of each digit in nats."""
    counts = torch.cat(codebook.counts()).sort(descending=True).values
    return {"size": codebook.codebook_size, "num_codebooks": codebook.num_codebooks, "digits": list(codebook.digits),
            "num_indices": int(counts.sum()),
            "histogram": counts[:MAX_HISTOGRAM_ENTRIES].tolist(), "digit_entropies": codebook.digit_entropies()}


def _write_videos(evaluation: Evaluation, name: str,
                  samples: dict[str, tuple[Tensor, Tensor]]) -> tuple[list[str], list[str]]:
    """Write videos of samples and of their originals; returns both lists of paths, relative to the folder."""
    keys = sorted(key for share in gather_objects_over_processes(list(samples)) for key in share)[:NUM_VIDEOS]
    files = [(f"videos/{name}_{number}.mp4", f"videos/original_{number}.mp4") for number in range(len(keys))]
    (evaluation.folder / "videos").mkdir(parents=True, exist_ok=True)
    for key, pair in zip(keys, files, strict=True):
        for file, pixels in zip(pair, reversed(samples.get(key, ())), strict=False):
            write_video(evaluation.folder / file, pixels, fps=evaluation.fps)
    return [video for video, _ in files], [original for _, original in files]


def _finite_or_none(scores: dict[str, float]) -> dict[str, float | None]:
    """Replace NaN and infinity, which JSON does not have, by None."""
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}


def versions() -> dict[str, str]:
    """Versions of the software."""
    return {"toolkit": toolkit.__version__, "torch": torch.__version__, "av": av.__version__,
            "python": platform.python_version()}


def hardware(device: torch.device, num_processes: int) -> dict[str, Any]:
    """Names of the device and the processor, numbers of cores, threads and processes."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        name = next((line.partition(":")[2].strip() for line in info.read_text().splitlines()
                     if line.startswith("model name")), name)
    return {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu", "processor": name,
            "cores": os.cpu_count(), "threads": torch.get_num_threads(), "processes": num_processes}


def write_row(path: Path, row: Row) -> None:
    """Write a row as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(row, indent=1, allow_nan=False) + "\n")


def finished_row(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """The row in a file, if it is complete and has this fingerprint."""
    try:
        rows = read_rows(path)
    except (FileNotFoundError, ValueError):
        return None
    return rows[0] if rows and rows[0].get("fingerprint") == fingerprint else None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON file with a row or a list; the kind "anchor" of version 0.1 becomes "baseline"."""
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = content if isinstance(content, list) else [content]
    return [row | {"kind": "baseline"} if row.get("kind") == "anchor" else row for row in rows]


def save_targets(path: Path, states: States) -> None:
    """Save the features of the targets for later rows and runs; no file if there are none."""
    tensors = {f"{block}\n{metric}\n{name}": tensor.contiguous() for block, metrics in states.items()
               for metric, state in metrics.items() for name, tensor in state.items()}
    if tensors:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            save_file(tensors, partial, metadata={"blocks": str(len(states))})


def load_targets(path: Path, *, num_blocks: int) -> States | None:
    """The features that :func:`save_targets` wrote; None if the file is missing or damaged."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError):
        return None
    states: States = {block: {} for block in range(num_blocks)}
    for key, tensor in tensors.items():
        block, metric, name = key.split("\n")
        states[int(block)].setdefault(metric, {})[name] = tensor
    return states
