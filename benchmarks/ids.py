"""When token ids change: clips tokenized in other ways than the plain one, and how many ids come out otherwise.

    python benchmarks/ids.py                                     # trains a few small tokenizers first, half an hour
    python benchmarks/ids.py --tokenizer work_dirs/x/tokenizer   # one's own
    python benchmarks/ids.py --ways "batch of 8" "chunks of 5"

The plain way is float32, one process, one thread, one clip at a time and whole. A way's row has the share of ids
that differ from it, the share of their digits (bits, where a digit has two values), and what the reconstruction's
PSNR gains, in dB. The trained tokenizers are kept in work_dirs/ids. Everything is measured on the CPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ("demo_video", "demo_video_fsq", "demo_video_vq")
GOLDEN = ROOT / "tests" / "golden" / "tokens"  # a small one that is there: its rows can be measured again anywhere
CLIPS = dict(samples="full", num_frames=17, size=96, clips_per_video=3, train=False)
STEPS = 300


def clips() -> tuple[Any, list[str]]:
    """Pixels (N, 3, T, H, W) of sample clips that no demo trains on, and their names."""
    import torch

    from toolkit.data import VideoClips

    dataset = VideoClips(**CLIPS)
    samples = [dataset[number] for number in range(len(dataset))]
    return torch.stack([sample["pixels"] for sample in samples]), [Path(sample["key"]).name for sample in samples]


def trained(steps: int) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Title -> directory and how it was trained, of the demo's quantizers; and the golden tokenizer."""
    from toolkit.evaluation.benchmark import train, variants_of

    *variants, _ = variants_of([ROOT / "configs" / f"{name}.py" for name in CONFIGS], steps=steps, overrides={})
    directories = {variant.title: train(variant, ROOT / "work_dirs" / "ids") for variant in variants}
    return directories | {"small LFQ": (GOLDEN, {"kept in": str(GOLDEN.relative_to(ROOT))})}


def shares(actual: Any, expected: Any, digits: tuple[int, ...]) -> dict[str, float]:
    """Of indices of one shape: the share that differs, and of their digits, where they have several.

    Example:
        >>> import torch
        >>> shares(torch.tensor([0, 5]), torch.tensor([0, 6]), (2, 2, 2))
        {'ids': 0.5, 'digits': 0.3333333333333333}
    """
    import torch

    result = {"ids": (actual != expected).double().mean().item()}
    if len(digits) > 1:
        def split(indices: torch.Tensor) -> torch.Tensor:
            digit_values = []
            for size in reversed(digits):
                digit_values.append(indices % size)
                indices = indices // size
            return torch.stack(digit_values)

        result["digits"] = (split(actual) != split(expected)).double().mean().item()
    return result


def measure(directory: Path, pixels: Any, ways: list[str]) -> dict[str, Any]:
    """One tokenizer's rows: way -> shares and the gain in PSNR, or why there are none."""
    from id_ways import WAYS, Case, NotHereError, Tokenized, plain

    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        case = Case(directory, pixels, Path(scratch))
        references: dict[Callable[[Case], Tokenized], Tokenized] = {plain: plain(case)}
        for name in ways:
            way = WAYS[name]
            if way.against not in references:
                references[way.against] = way.against(case)
            reference = references[way.against]
            try:
                actual = way.run(case)
            except NotHereError as error:
                rows[name] = {"not measured": str(error)}
            else:
                rows[name] = shares(actual.indices, reference.indices, case.tokenizer().digits) | {
                    "psnr": actual.psnr - reference.psnr}
            print(f"{directory}: {name}: {rows[name]}", file=sys.stderr)
    tokenizer = case.tokenizer()
    return {"quantizer": tokenizer.quantizer.config, "digits": list(tokenizer.digits),
            "num_ids": references[plain].indices.numel(), "psnr": references[plain].psnr, "rows": rows}


def provenance(names: list[str]) -> dict[str, Any]:
    """What was measured, and with what."""
    import platform

    import torch

    import toolkit

    return {"clips": names, "preparation": CLIPS, "threads": torch.get_num_threads(),
            "device": f"CPU with {torch.backends.cpu.get_cpu_capability()}", "toolkit": toolkit.__version__,
            "torch": torch.__version__, "python": platform.python_version()}


def markdown(result: Mapping[str, Any]) -> str:
    """The table, and what must be known to read it."""
    tokenizers = result["tokenizers"]
    head, ways = ["against the plain way"], {}
    for title, one in tokenizers.items():
        digits = "" if len(one["digits"]) < 2 else "bits" if set(one["digits"]) == {2} else "digits"
        head += [f"{title}: ids (%)", *([f"{digits} (%)"] if digits else []), "dB"]
        for way, row in one["rows"].items():
            cells = [_percent(row.get("ids")), *([_percent(row.get("digits"))] if digits else []), _decibels(row)]
            ways.setdefault(way, []).extend([row.get("not measured", cells[0]), *cells[1:]])
    lines = [head, ["---"] * len(head), *([way, *cells] for way, cells in ways.items())]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    made = result["provenance"]
    how = "; ".join(", ".join([f"{title}: {one['num_ids']:,} ids", f"{one['psnr']:.2f} dB",
                               *(f"{key} {value}" for key, value in one["training"].items())])
                    for title, one in tokenizers.items())
    frames, size = made["preparation"]["num_frames"], made["preparation"]["size"]
    return (f"{table}\n\nMeasured on a {made['device']}, {made['threads']} thread, torch {made['torch']}, toolkit "
            f"{made['toolkit']}, on {len(made['clips'])} clips of {frames}x{size}x{size}. {how}.\n")


def _percent(share: float | None) -> str:
    return "0" if share == 0 else "-" if share is None else f"{100 * share:.3g}"


def _decibels(row: Mapping[str, Any]) -> str:
    gain = row.get("psnr")
    return "-" if gain is None else "0" if gain == 0 else "< 1e-5" if abs(gain) < 1e-5 else f"{gain:+.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, nargs="+", metavar="DIR", help="directories instead of the demo's")
    parser.add_argument("--ways", nargs="+", metavar="NAME", help="some of the rows only")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of the demo's trainings (default: {STEPS})")
    parser.add_argument("--output", type=Path, default=Path("work_dirs/ids/ids.json"),
                        help="the JSON; the table is written beside it, as .md (default: %(default)s)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    import torch
    from id_ways import WAYS

    from toolkit.tokens import tokenizer_hash

    if unknown := [name for name in arguments.ways or () if name not in WAYS]:
        parser.error(f"no such way: {', '.join(unknown)}; there are {', '.join(WAYS)}")
    directories = ({str(path): (path, {}) for path in arguments.tokenizer} if arguments.tokenizer
                   else trained(arguments.steps))
    torch.set_num_threads(1)
    pixels, names = clips()
    result: dict[str, Any] = {"provenance": provenance(names), "tokenizers": {}}
    for title, (directory, training) in directories.items():
        result["tokenizers"][title] = {"hash": tokenizer_hash(directory), "training": training,
                                       **measure(directory, pixels, arguments.ways or list(WAYS))}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    arguments.output.with_suffix(".md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
