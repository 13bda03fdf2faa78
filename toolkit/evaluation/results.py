"""Results: the scores of an entry under a protocol, their intervals and costs, as one JSON row."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import av
import torch
from accelerate import PartialState
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
from toolkit.evaluation.entries import Codec, Entry, TokenizerCodec, build_codec
from toolkit.evaluation.intervals import extrapolate, jackknife, merge
from toolkit.evaluation.preparation import block_numbers, build_dataset, cast_values, file_of, files_of, frame_rate
from toolkit.evaluation.protocol import Protocol, Suite, json_hash
from toolkit.io.atomic_write import atomic_write
from toolkit.layers.distributed import gather_objects_over_processes
from toolkit.metrics import Codebook
from toolkit.metrics.columns import columns_of

SCORES_VERSION = "0.1.0"  # in the fingerprint; the toolkit's version when the computation of scores last changed
FEW_SAMPLES = 2_000  # Fréchet distances of fewer clips or images are marked
FRECHET = ("rfid", "rfvd")
CURVE_METRICS = ({"type": "PSNR"}, {"type": "SSIM"}, {"type": "LPIPS", "net": "alex"})
NUM_VIDEOS, MAX_HISTOGRAM_ENTRIES = 2, 512
WEIGHTS = {("LPIPS", "alex"): "lpips_alexnet", ("LPIPS", "vgg"): "lpips_vgg16",  # (type, net) -> name in ASSETS
           ("RFID", None): "inception_2015", ("InceptionDistances", None): "inception_2015",
           ("RFVD", None): "i3d_kinetics400", ("VideoDistances", None): "i3d_kinetics400"}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Options:
    """Command-line options of benchmarks/run.py, which explains them."""

    tokenizer: Sequence[str] = ()
    revision: str | None = None
    subfolder: str | None = None
    train: Sequence[Path] = ()
    steps: int | None = None
    flops: float | None = None
    cfg_options: Sequence[str] = ()
    data: Path | None = None
    limit: int | None = None
    metrics: Sequence[str] = ()
    baseline: Sequence[str] = ()
    batch_size: int = 4
    num_workers: int = 0
    device: str | None = None


class Evaluation:
    """A suite, its data and the options of a run, shared by all entries. Every process makes one."""

    def __init__(self, name: str, suite: Suite, folder: Path, options: Options, *, state: PartialState):
        self.name, self.suite, self.folder, self.options, self.state = name, suite, folder, options, state
        self.protocol = self._protocol()
        path = str(options.data) if options.data else suite.path
        self.device = torch.device(options.device) if options.device else state.device
        self.dataset = build_dataset(self.protocol, path, limit=options.limit)
        files = files_of(self.dataset)
        self.fps = frame_rate(self.protocol, files)
        self.block_of = block_numbers(files)
        sizes = [(Path(file).name, os.path.getsize(file) if os.path.exists(file) else None) for file in files]
        self.data_identity = {"files": len(files), "sha256": json_hash(sizes)}
        build_metrics(list(self.protocol.metrics), Baseline)  # fails early; Baseline: any codec without a codebook
        assets = [f"clips/{clip}" for clip in SPLITS["full"]["eval"]] if path is None else []
        assets += [f"weights/{WEIGHTS[kind]}" for config in self.protocol.metrics
                   if (kind := (config["type"], config.get("net"))) in WEIGHTS]
        self.assets = {name: ASSETS[name].sha256 for name in assets}  # pinned files that scores depend on
        key = json_hash([self.protocol.hash, self.data_identity, self.assets, toolkit.__version__, torch.__version__])
        rank = f"{state.process_index}-of-{state.num_processes}"
        self.features_file = folder / "targets" / f"{key[:20]}-{rank}.safetensors"
        self.features: dict[str, Tensor] | None = None  # of the targets, from an earlier pass
        with contextlib.suppress(OSError, SafetensorError):  # missing or damaged
            self.features = load_file(self.features_file)

    def _protocol(self) -> Protocol:
        """The suite's protocol with the ``limit`` and ``metrics`` of the options."""
        protocol, options = self.suite.protocol, self.options
        if options.metrics:
            available = [config["type"] for config in protocol.metrics]
            if unknown := ", ".join(metric for metric in options.metrics if metric not in available):
                raise ValueError(f"suite {self.name} has no metric {unknown}; it has {', '.join(available)}.")
            metrics = tuple(config for config in protocol.metrics if config["type"] in options.metrics)
            protocol = dataclasses.replace(protocol, metrics=metrics)
        if options.limit is not None:
            if options.limit < 1:
                raise ValueError(f"--limit needs at least 1 sample, got {options.limit}.")
            protocol = dataclasses.replace(protocol, num_samples=options.limit)
        return protocol

    def loader(self) -> ValLoader:
        """A new loader of the samples of this process."""
        source = Source(self.dataset, batch_size=self.options.batch_size, num_workers=self.options.num_workers)
        return ValLoader([source], rank=self.state.process_index, world_size=self.state.num_processes)

    def fingerprint(self, entry: Entry) -> str:
        """Hash of protocol, data, entry and SCORES_VERSION; a row with an equal hash is not measured again."""
        return _fingerprint(self.protocol.hash, self.data_identity, entry)


def _fingerprint(protocol_hash: str, data_identity: dict[str, Any], entry: Entry) -> str:
    return json_hash([protocol_hash, data_identity, entry.identity, entry.name, entry.title, SCORES_VERSION])


def is_row_of(row: Row, directory: Path) -> bool:
    """Whether a row has the scores of the tokenizer in a directory, with its files as they are now."""
    source = {"source": row["source"]} if row.get("source") else {}
    spec = {"type": "tokenizer", "path": str(directory), "bypass": False} | source
    entry = Entry(row["name"], row["title"], "tokenizer", spec)
    return row.get("fingerprint") == _fingerprint(row["protocol_hash"], row["data"], entry)


def measure(evaluation: Evaluation, entry: Entry, *, order: int) -> dict[str, Any]:
    """The row of an entry. Every process calls this and gets all scores; only process 0 gets the costs."""
    codec, protocol = build_codec(entry.spec, evaluation.device), evaluation.protocol
    config, parameters = None, dict.fromkeys(("encoder", "quantizer", "decoder"), 0)
    if isinstance(codec, TokenizerCodec):
        config = codec.tokenizer.config
        parameters = {name: sum(map(Tensor.numel, getattr(codec.tokenizer, name).parameters())) for name in parameters}
    measurement = _evaluate(evaluation, codec, list(protocol.metrics), title=entry.title)
    scores, intervals, extrapolated, columns, codebook = measurement.scores(), {}, {}, {}, None
    for copies in measurement.metrics:
        directions = copies[0].higher_is_better
        columns |= {name: dataclasses.asdict(column) | {"higher_is_better": directions.get(name)}
                    for name, column in columns_of(copies[0]).items()}
        if isinstance(copies[0], Codebook):  # the number of used codes depends on that of samples: no interval
            codebook = _codebook_use(merge(copies))
            continue
        intervals |= {name: interval for name, interval in jackknife(copies).items()
                      if math.isfinite(interval.low) and math.isfinite(interval.high)}
        extrapolated |= {name: extrapolate(copies, name) for name in FRECHET if name in directions}
    if measurement.rate is not None:
        scores["bits_per_pixel"] = measurement.rate
        if evaluation.fps is not None:
            scores["bits_per_second"] = measurement.rate * protocol.size**2 * evaluation.fps
    videos, originals = _write_videos(evaluation, entry.name, measurement) if protocol.modality == "video" else ([], [])
    row = {
        "name": entry.name, "kind": entry.kind, "title": entry.title, "order": order, "suite": evaluation.name,
        "protocol": dataclasses.asdict(protocol), "protocol_hash": protocol.hash,
        "fingerprint": evaluation.fingerprint(entry), "config": config, "training": entry.training,
        "source": entry.spec.get("source"),
        "notes": list(entry.notes), "scores": _finite_or_none(scores), "columns": columns,
        "intervals": {name: [interval.low, interval.high] for name, interval in intervals.items()},
        "without_block": {name: list(interval.without_block) for name, interval in intervals.items()},
        "extrapolated": _finite_or_none({name: score for name, score in extrapolated.items() if score is not None}),
        "marks": {name: "few samples" for name in FRECHET if name in scores and measurement.num_samples < FEW_SAMPLES},
        "num_samples": measurement.num_samples, "num_blocks": len(measurement.block_numbers),
        "unreadable": measurement.unreadable, "codebook": codebook, "parameters": parameters,
        "data": evaluation.data_identity, "assets": evaluation.assets,
        "versions": {"toolkit": toolkit.__version__, "torch": torch.__version__, "av": av.__version__,
                     "python": platform.python_version()},
        "hardware": hardware(evaluation.device, evaluation.state.num_processes),
        "curve": _curve(evaluation, entry, _finite_or_none(scores)), "videos": videos, "original_videos": originals}
    if evaluation.state.is_main_process and (batch := next(iter(evaluation.loader()), None)) is not None:
        row |= measure_cost(entry.spec, batch.pixels.numpy(), str(evaluation.device), torch.get_num_threads())
    return row


class _Measurement:
    """Metrics of each block and counts of one pass over the data, of this process unless a comment says otherwise."""

    def __init__(self, evaluation: Evaluation, codec: Codec, configs: list[dict[str, Any]]):
        self.evaluation, self.codec = evaluation, codec
        metrics_by_block = [build_metrics(configs, codec) for _ in set(evaluation.block_of.values())]
        self.metrics = [list(copies) for copies in zip(*metrics_by_block, strict=True)]  # of each a copy per block
        self.num_samples = self.num_pixels = 0  # num_samples: after the pass, of all processes
        self.bits: float | None = None  # None for a continuous codec
        self.block_numbers: set[int] = set()  # of blocks with samples; after the pass, of all processes
        self.examples: dict[str, tuple[Tensor, Tensor]] = {}  # key -> a target for a report and its reconstruction
        self.rate: float | None = None  # bits per pixel over all processes
        self.unreadable: dict[str, str] = {}  # of all processes: name of a file -> reason

    @torch.no_grad()
    def update(self, batch: Batch) -> None:
        """Add a batch."""
        pixels = batch.pixels.to(self.evaluation.device)
        reconstruction, indices = self.codec(pixels)
        reconstruction = cast_values(reconstruction, self.evaluation.protocol.values)
        self.num_samples += len(batch.keys)
        self.num_pixels += pixels[:, 0].numel()
        if indices is not None:
            self.bits = (self.bits or 0.0) + indices.numel() * math.log2(self.codec.codebook_size)
        if self.codec.bits_per_pixel is not None:
            self.bits = self.codec.bits_per_pixel * self.num_pixels  # bits_per_pixel is of all pixels so far
        files = [file_of(key, self.evaluation.block_of) for key in batch.keys]
        numbers, stems = [self.evaluation.block_of[file] for file in files], self.evaluation.suite.shown
        self.block_numbers.update(numbers)
        for block in sorted(set(numbers)):
            chosen = [position for position, number in enumerate(numbers) if number == block]
            for copies in self.metrics:
                copies[block].update(target=pixels[chosen], reconstruction=reconstruction[chosen],
                                     indices=None if indices is None else indices[chosen])
        for key, file, target, output in zip(batch.keys, files, batch.pixels, reconstruction, strict=True):
            if len(self.examples) < NUM_VIDEOS and (not stems or Path(file).stem in stems):
                self.examples[key] = target.cpu(), output.cpu()

    def metrics_with_prefixes(self) -> Iterator[tuple[str, Metric]]:
        """(prefix, metric) of every metric; the names of its targets' features begin with the prefix."""
        for copies in self.metrics:
            for block, metric in enumerate(copies):  # by config, not by place: codecs without a codebook skip metrics
                yield f"{block}\n{json.dumps(metric.config, sort_keys=True, default=str)}\n", metric

    def scores(self) -> dict[str, float]:
        """The scores of all blocks."""
        return {name: value for copies in self.metrics for name, value in merge(copies).compute().items()}


def _evaluate(evaluation: Evaluation, codec: Codec, configs: list[dict[str, Any]], *, title: str) -> _Measurement:
    """One pass of all processes over the data; an error in one process is raised in all."""
    loader, measurement = evaluation.loader(), _Measurement(evaluation, codec, configs)
    state, features, error, no_data_error = evaluation.state, evaluation.features, None, None
    total = len(range(state.process_index, len(evaluation.dataset), state.num_processes))  # samples of this process
    try:
        for prefix, metric in measurement.metrics_with_prefixes() if features is not None else ():
            if own := {key.removeprefix(prefix): features[key] for key in features if key.startswith(prefix)}:
                metric.load_target_state(own)
        with tqdm(total=total, desc=title, unit="sample", leave=False, disable=not state.is_main_process) as progress:
            for batch in loader:
                measurement.update(batch)
                progress.update(len(batch.keys))
    except DataError as caught:  # this process has no readable sample; another process may have some
        no_data_error = str(caught)
    except (OSError, RuntimeError, ValueError) as caught:
        error = f"{type(caught).__name__}: {caught}"
    gathered = gather_objects_over_processes((error, no_data_error, measurement.num_samples, measurement.num_pixels,
                                              measurement.bits, measurement.block_numbers, loader.unreadable))
    errors, no_data_errors, num_samples, num_pixels, bits, numbers, unreadable = zip(*gathered, strict=True)
    if any(errors):
        raise RuntimeError(next(filter(None, errors)))
    if not any(num_samples):
        raise DataError(next(filter(None, no_data_errors)))
    if features is None:
        evaluation.features = {f"{prefix}{name}": tensor.contiguous()
                               for prefix, metric in measurement.metrics_with_prefixes()
                               for name, tensor in (metric.target_state() or {}).items()}
        if evaluation.features:
            evaluation.features_file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(evaluation.features_file) as partial:
                save_file(evaluation.features, partial)
    measurement.num_samples, measurement.block_numbers = sum(num_samples), set().union(*numbers)  # of all processes
    if any(number is not None for number in bits):
        measurement.rate = sum(number or 0.0 for number in bits) / sum(num_pixels)
    for path, reason in sorted(item for reasons in unreadable for item in reasons.items()):
        measurement.unreadable[Path(path).name] = reason.replace(path, Path(path).name)
    return measurement


def _curve(evaluation: Evaluation, entry: Entry, scores: dict[str, float]) -> list[dict[str, float]]:
    """Rate-distortion points: none without a rate, several of a baseline that takes ``bits_per_pixel``, else one."""
    names = ("bits_per_pixel", "psnr", "ssim", "lpips_alex")
    points = [{name: scores[name] for name in names if name in scores}] if "bits_per_pixel" in scores else []
    configs = [config for config in CURVE_METRICS if config in evaluation.protocol.metrics]
    for rate in entry.spec.get("curve", ()) if configs else ():
        codec = build_codec(entry.spec | {"bits_per_pixel": rate}, evaluation.device)
        measurement = _evaluate(evaluation, codec, configs, title=f"{entry.title} at {rate:.4f} bits/pixel")
        points.append(_finite_or_none({"bits_per_pixel": measurement.rate} | measurement.scores()))
    return sorted(points, key=lambda point: point["bits_per_pixel"])


def _codebook_use(codebook: Codebook) -> dict[str, Any]:
    """Sizes, counts of the most used codes, and the entropy in nats of each digit (a bit, or a channel of FSQ)."""
    counts = torch.cat(codebook.counts()).sort(descending=True).values
    return {"size": codebook.codebook_size, "num_codebooks": codebook.num_codebooks, "digits": list(codebook.digits),
            "num_indices": int(counts.sum()),
            "histogram": counts[:MAX_HISTOGRAM_ENTRIES].tolist(), "digit_entropies": codebook.digit_entropies()}


def _write_videos(evaluation: Evaluation, name: str, measurement: _Measurement) -> tuple[list[str], list[str]]:
    """Write videos of the examples and of their originals; returns both lists of paths, relative to the folder."""
    gathered = gather_objects_over_processes(list(measurement.examples))
    keys = sorted(key for keys_of_process in gathered for key in keys_of_process)[:NUM_VIDEOS]
    files = [(f"videos/{name}_{number}.mp4", f"videos/original_{number}.mp4") for number in range(len(keys))]
    (evaluation.folder / "videos").mkdir(parents=True, exist_ok=True)
    for key, (video, original) in zip(keys, files, strict=True):
        if key in measurement.examples:  # else another process writes them
            target, output = measurement.examples[key]
            write_video(evaluation.folder / video, output, fps=evaluation.fps)
            write_video(evaluation.folder / original, target, fps=evaluation.fps)
    return [video for video, _ in files], [original for _, original in files]


def _finite_or_none(scores: dict[str, float]) -> dict[str, float | None]:
    """Replace NaN and infinity, which JSON does not have, by None."""
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}


def hardware(device: torch.device, num_processes: int) -> dict[str, Any]:
    """Names of the device and the processor, numbers of cores, threads and processes."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        name = next((line.partition(":")[2].strip() for line in info.read_text().splitlines()
                     if line.startswith("model name")), name)
    return {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu", "processor": name,
            "cores": os.cpu_count(), "threads": torch.get_num_threads(), "processes": num_processes}


def finished_row(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """The row in a file; None if the file is missing or broken, or if the row has another fingerprint."""
    try:
        rows = read_rows(path)
    except (FileNotFoundError, ValueError):
        return None
    return rows[0] if rows and rows[0].get("fingerprint") == fingerprint else None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The row, or list of rows, in a JSON file. Version 0.1 wrote the kind "anchor" for "baseline"."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    rows = content if isinstance(content, list) else [content]
    keys = ("scores", "intervals", "extrapolated", "parameters", "throughput")
    for row in rows:
        if not isinstance(row, dict) or not all(isinstance(row.get(key) or {}, dict) for key in keys):
            raise ValueError(f"{path} needs rows with objects as {', '.join(keys)}, got {str(row)[:80]}.")
        for key in keys:
            for name, value in (row.get(key) or {}).items():
                if key == "intervals":
                    needed = "[low, high]"
                    fits = isinstance(value, list) and len(value) == 2 and all(isinstance(end, Real) for end in value)
                else:
                    needed, fits = "a number", value is None or isinstance(value, Real)
                if not fits:
                    raise ValueError(f"{path}, row {row.get('name')}: {key}.{name} needs {needed}, got {value!r}.")
    return [row | {"kind": "baseline"} if row.get("kind") == "anchor" else row for row in rows]
