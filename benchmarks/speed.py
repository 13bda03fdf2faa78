"""Speed and peak memory of parts of the toolkit, beside plain implementations.

    python benchmarks/speed.py                       # everything, half an hour on two cores
    python benchmarks/speed.py image video step --rounds 3

Each measurement runs in a new process, and the versions alternate; the table shows medians. Machines are noisy: compare
the ratios. Full-width networks are those of configs/magvit2_video.py, at 128 pixels; plain is benchmarks/plain.py. Two
cases run in one process and have tables of their own: ``widths`` compares small networks of several widths, and
``made_clips`` counts the clips that a core makes in a second.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

OWN_TABLES = ("widths", "made_clips")  # these cases have tables of their own, and run in this process
NAMES = ("entropy", "image", "stream_100", "stream_1000", "stream_5000", "clip_vs_gop", "clip_vs_file", "clip_index",
         "video", "encode", "decode", "gemm_share", "step", *OWN_TABLES)


def measure(name: str, version: str, *, filters: int, side: int) -> None:
    """In the subprocess of :func:`compare`: run one version and print its figures as JSON."""
    from speed_cases import REPEATS, cases

    run = cases()[name](version, filters=filters, side=side)
    repeats = REPEATS.get(name, 1)
    if version == "plain" and name.startswith("clip"):
        repeats = 1  # slow, and the same work every time
    if repeats > 1:
        run()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        values = run()
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": statistics.median(seconds), "GiB": peak_memory(), "values": values}))


def peak_memory() -> float:
    """Peak memory of this process in GiB. (getrusage would include that of the process that started it.)"""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 2**20


def compare(name: str, versions: tuple[str, ...], *, rounds: int, filters: int, side: int) -> dict[str, dict]:
    """Measure the versions alternately, each in a new process; version -> medians."""
    measured: dict[str, list[dict]] = {version: [] for version in versions}
    for number in range(rounds):
        for version, runs in measured.items():
            print(f"{name}: {version}, round {number + 1} of {rounds}", file=sys.stderr)
            command = [sys.executable, __file__, name, "--version", version, "--filters", str(filters), "--side",
                       str(side)]
            result = subprocess.run(command, check=False, capture_output=True, text=True)
            if result.returncode:
                sys.exit(f"error: {name}, {version}: exit code {result.returncode}\n{result.stderr}")
            runs.append(json.loads(result.stdout.splitlines()[-1]))
    return {version: {"seconds": statistics.median(run["seconds"] for run in runs),
                      "GiB": statistics.median(run["GiB"] for run in runs),
                      "values": {key: statistics.median(run["values"][key] for run in runs)
                                 for key in runs[0]["values"]}} for version, runs in measured.items()}


def rows(name: str, medians: dict[str, dict]) -> list[list[str]]:
    """A row for each version beside the plain one."""
    plain = medians["plain"]
    lines = []
    for version, ours in medians.items():
        if version == "plain":
            continue
        figures = "; ".join(f"{key} {value:.4g} / {plain['values'][key]:.4g}" for key, value in ours["values"].items())
        lines.append([name if version == "toolkit" else f"{name}, {version}", f"{ours['seconds']:.2f}",
                      f"{plain['seconds']:.2f}", f"{plain['seconds'] / ours['seconds']:.2f}x", f"{ours['GiB']:.2f}",
                      f"{plain['GiB']:.2f}", f"{ours['GiB'] / plain['GiB']:.2f}x", figures])
    return lines


HEADER = ["", "toolkit (s)", "plain (s)", "faster", "toolkit (GiB)", "plain (GiB)", "memory",
          "figures, toolkit / plain"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", help=f"one or more of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=1,
                        help="measurements of each version (default: 1; widths and made_clips: at least 15)")
    parser.add_argument("--filters", type=int, default=128, help="width of the networks (default: the paper's)")
    parser.add_argument("--side", type=int, default=128, help="height and width of the networks' input (default: 128)")
    parser.add_argument("--minutes", type=float, default=10, help="length of the video that clips are read from")
    parser.add_argument("--output", type=Path, help="write the table there as markdown too")
    parser.add_argument("--version", help=argparse.SUPPRESS)  # measure one version in this process, and print JSON
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.case if name not in NAMES]:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    size = dict(filters=arguments.filters, side=arguments.side)
    if arguments.version:
        measure(arguments.case[0], arguments.version, **size)
        return
    from speed_cases import LONG_VIDEO, VERSIONS, cases, long_video

    names, table = arguments.case or NAMES, []
    if any(name.startswith("clip") for name in names):
        print("writing the long video", file=sys.stderr)
        os.environ[LONG_VIDEO] = str(long_video(arguments.minutes))
    try:
        for name in names:
            if name not in OWN_TABLES:
                versions = VERSIONS.get(name, ("toolkit", "plain"))
                table += rows(name, compare(name, versions, rounds=arguments.rounds, **size))
    finally:
        if LONG_VIDEO in os.environ:
            shutil.rmtree(Path(os.environ[LONG_VIDEO]).parent, ignore_errors=True)
    lines = []
    if table:
        lines = [*markdown_table(HEADER, table), "",
                 *(f"- {name}: {cases()[name].__doc__}" for name in names if name not in OWN_TABLES)]
    for name in OWN_TABLES:
        if name in names:
            module = import_module(f"speed_{name}")
            lines += [""] * bool(lines) + markdown_table(module.HEADER, module.table(max(arguments.rounds, 15)))
    print("\n".join(lines))
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n")


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a markdown table."""
    lines = ["| " + " | ".join(line) + " |" for line in (header, *rows)]
    return [lines[0], "| --- " * len(header) + "|", *lines[1:]]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
