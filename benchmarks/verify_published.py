"""Download published checkpoints, convert and evaluate them, and compare with the scores their authors state.

    python benchmarks/verify_published.py --list
    python benchmarks/verify_published.py open_magvit2_256 llamagen_vq16 --data path/to/imagenet/val
    python benchmarks/verify_published.py open_magvit2_video --data UCF-101/train --checkpoint video_128_262144.ckpt
    python benchmarks/verify_published.py --dry-run

DIR holds the images or clips of the entry's protocol. Each checkpoint leaves a JSON in benchmarks/results/published.
The dry run needs no network: small networks with random weights, in files like the published ones, are converted and
evaluated on 16 sample frames or 2 sample clips (PSNR and SSIM only); their scores mean nothing, and no
result is written.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import logging
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from published import PUBLISHED, Published

RESULTS = Path(__file__).parent / "results" / "published"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries of --list")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the images or clips of the entries' protocol")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="use this file, do not download (one NAME)")
    parser.add_argument("--list", action="store_true", help="print the entries and their verdicts")
    parser.add_argument("--dry-run", action="store_true", help="all steps with random weights (default: all entries)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: cuda where there is one)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    return parser.parse_args()


def download(entry: Published) -> Path:
    """The checkpoint's file in the hub's cache."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(entry.repo, entry.file, revision=entry.revision))
    except Exception as error:  # hub, HTTP library and sockets raise unrelated kinds, which differ by version
        raise OSError(f"the hub did not give {entry.address} ({type(error).__name__}: {error}); "
                      "download it and add --checkpoint FILE.") from error


def build_data(entry: Published, arguments: argparse.Namespace) -> Any:
    """The protocol's validation set, or the sample clips in a dry run, whole and in order."""
    from toolkit.data import Source
    from toolkit.evaluation.preparation import build_dataset

    protocol, dry = entry.protocol, arguments.dry_run
    if dry:
        protocol = dataclasses.replace(protocol, size=32, clip_choice="spread", clips_per_video=2)
    dataset = build_dataset(protocol, None if dry else arguments.data, limit=None if not dry else 16 if
                            protocol.modality == "image" else 2, exact=False)
    return [Source(dataset, batch_size=arguments.batch_size, num_workers=arguments.num_workers)]


def measure(entry: Published, tokenizer: Any, sources: list, arguments: argparse.Namespace) -> dict[str, Any]:
    """The scores, and over how many samples."""
    import torch
    from tqdm import tqdm

    from toolkit.build import build_metrics
    from toolkit.data import ValLoader
    from toolkit.evaluation.preparation import cast_values
    from toolkit.training.validation import as_codec, evaluate

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    configs = [config for config in entry.protocol.metrics
               if not arguments.dry_run or config["type"] in ("PSNR", "SSIM")]
    loader, seen, plain = ValLoader(sources), 0, as_codec(tokenizer.to(device))

    def codec(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        reconstruction, indices = plain(pixels)
        return cast_values(reconstruction, entry.protocol.values), indices

    def batches():
        nonlocal seen
        with tqdm(total=len(sources[0].dataset), unit="sample", leave=False) as progress:
            for batch in loader:
                seen += len(batch.keys)
                yield batch
                progress.update(len(batch.keys))

    scores = evaluate(codec, batches(), build_metrics(configs, tokenizer), device=device)
    return {"scores": scores, "num_samples": seen, "num_unreadable": len(loader.unreadable), "device": device}


def compare(entry: Published, measured: dict[str, Any]) -> dict[str, Any]:
    """The differences from the stated scores and the verdict; reasons explain any verdict but "verified"."""
    difference = {name: measured["scores"][name] - stated for name, stated in entry.stated.items()
                  if name in measured["scores"]}
    reasons = [f"{name} is off by {value:+.4g}, allowed is {entry.tolerance[name]:g}"
               for name, value in difference.items() if not abs(value) <= entry.tolerance[name]]
    reasons += [f"{name} was not measured" for name in entry.stated if name not in difference]
    expected = entry.protocol.num_samples
    if expected and measured["num_samples"] != expected:
        reasons.append(f"{measured['num_samples']} samples, the protocol has {expected}")
    if measured["num_unreadable"]:
        reasons.append(f"{measured['num_unreadable']} unreadable files were skipped")
    verdict = ("differs" if reasons else "verified") if entry.stated else "no score stated"
    return {"difference": difference, "verdict": verdict, "reasons": reasons}


def verify(name: str, arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Convert, evaluate and compare one entry; its result, which a real run also writes."""
    import torch

    import toolkit
    from toolkit.assets import sha256_of
    from toolkit.interop import convert_checkpoint
    from toolkit.registry import METRICS

    if name not in PUBLISHED:
        near = difflib.get_close_matches(name, PUBLISHED, n=1) or list(PUBLISHED)
        raise ValueError(f"no such entry; did you mean {', '.join(near)}?")
    entry = PUBLISHED[name]
    sources = build_data(entry, arguments)  # so that a mistake is found before a large download
    if arguments.dry_run:
        from synthetic import write_checkpoint
        path = write_checkpoint(entry, scratch / name)
    else:
        for config in entry.protocol.metrics:
            METRICS.get(config["type"])
        path = arguments.checkpoint or download(entry)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}.")
    digest = sha256_of(path)
    if entry.sha256 and digest != entry.sha256 and not arguments.dry_run:
        raise ValueError(f"{path} has sha256 {digest}, pinned is {entry.sha256}; download it again.")
    conversion = convert_checkpoint(path, entry.layout, discriminator=False)
    measured = measure(entry, conversion.tokenizer, sources, arguments)
    commit = path.parts[path.parts.index("snapshots") + 1] if "snapshots" in path.parts else None
    result = {"name": name, "repo": entry.repo, "file": entry.file, "revision": entry.revision,
              "origin": "local file" if arguments.checkpoint else "hub", "commit": commit, "sha256": digest,
              "layout": conversion.layout, "ema": conversion.ema, "protocol": dataclasses.asdict(entry.protocol),
              "stated": entry.stated, "source": entry.source, "evidence": entry.evidence, "tolerance": entry.tolerance,
              **measured, **compare(entry, measured),
              "versions": {"toolkit": toolkit.__version__, "torch": torch.__version__,
                           "python": platform.python_version()}}
    if not arguments.dry_run:
        arguments.results.mkdir(parents=True, exist_ok=True)
        (arguments.results / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def print_results(results: dict[str, dict[str, Any]], *, dry_run: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    title = "dry run: weights are random, so the scores mean nothing" if dry_run else None
    table = Table("checkpoint", "samples", "score", "measured", "stated", "difference", "allowed", "verdict",
                  title=title)
    for name, result in results.items():
        for row, score in enumerate(dict.fromkeys([*result["scores"], *result["stated"]])):
            numbers = [f"{result[key][score]:{sign}.4g}" if score in result[key] else "-" for key, sign in (
                ("scores", ""), ("stated", ""), ("difference", "+"), ("tolerance", ""))]
            first = [name, str(result["num_samples"])] if row == 0 else ["", ""]
            verdict = "dry run" if dry_run else "; ".join([result["verdict"], *result["reasons"]])
            table.add_row(*first, score, *numbers, verdict if row == 0 else "")
    Console(width=max(120, Console().width)).print(table)


def print_list(folder: Path) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    table = Table("name", Column("address", overflow="fold"), "protocol", "stated", "status", show_lines=True)
    for name, entry in PUBLISHED.items():
        protocol, file = entry.protocol, folder / f"{name}.json"
        result = json.loads(file.read_text()) if file.is_file() else None
        table.add_row(name, entry.address, str(protocol),
                      ", ".join(f"{score} {value:g}" for score, value in entry.stated.items()) or "nothing",
                      f"{result['verdict']} ({result['origin']})" if result else "not yet verified")
    Console(width=max(170, Console().width)).print(table)


def main() -> None:
    arguments = parse()
    logging.basicConfig(level=logging.ERROR if arguments.dry_run else logging.WARNING, format="%(message)s")
    if arguments.list:
        return print_list(arguments.results)
    if not arguments.names and not arguments.dry_run:
        sys.exit("error: name one or more entries of --list, or give --dry-run.")
    if arguments.data is None and not arguments.dry_run:
        sys.exit("error: --data DIR is needed, the images or clips of the entry's protocol.")
    if arguments.checkpoint and len(arguments.names) != 1:
        sys.exit("error: --checkpoint goes with one NAME.")
    from toolkit.assets import AssetError
    from toolkit.contracts import DataError
    from toolkit.registry import UnknownComponentError

    results, failed = {}, False
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.names or PUBLISHED:
            try:
                results[name] = verify(name, arguments, Path(scratch))
            except (AssertionError, AssetError, DataError, OSError, RuntimeError, UnknownComponentError,
                    ValueError) as error:  # Assertion, Runtime: torch's, for a device that is not there or is full
                failed = True
                print(f"error: {name}: {' '.join(str(error).split())[:600]}", file=sys.stderr)
    if results:
        print_results(results, dry_run=arguments.dry_run)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
