"""Speed and memory of what the toolkit does, each beside a plain version measured in the same run.

    python benchmarks/speed.py entropy

Every measurement is a process of its own, ours and the plain one in turns, and the table shows medians: machines
are noisy, so believe the ratios.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def entropy(version: str) -> Callable[[], dict[str, float]]:
    """Both entropies of 2^18 codes over N = 1280 positions, forward and backward."""
    import torch
    from plain import full_softmax_entropies

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


CASES: dict[str, Callable[[str], Callable[[], dict[str, float]]]] = {"entropy": entropy}


def measure(case: str, version: str, repeats: int) -> None:
    """Run one version in this process and print its figures as JSON."""
    run = CASES[case](version)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        values = run()
        seconds.append(time.perf_counter() - started)
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"seconds": statistics.median(seconds), "megabytes": added, "values": values}))


def compare(case: str, *, rounds: int, repeats: int) -> None:
    """Measure both versions in turns and print the table."""
    from rich.console import Console
    from rich.table import Table

    found: dict[str, list[dict]] = {"toolkit": [], "plain": []}
    for _ in range(rounds):
        for version, runs in found.items():
            command = [sys.executable, __file__, case, "--version", version, "--repeats", str(repeats)]
            runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    names = list(found["plain"][0]["values"])
    table = Table("", "seconds", "added peak memory", *names, title=f"{case}: {CASES[case].__doc__}")
    medians = {version: {key: statistics.median(run[key] for run in runs) for key in ("seconds", "megabytes")}
               for version, runs in found.items()}
    for version, runs in found.items():
        table.add_row(version, f"{medians[version]['seconds']:.3f}", f"{medians[version]['megabytes']:.0f} MB",
                      *(f"{runs[0]['values'][name]:.6f}" for name in names))
    ratio = {key: medians["plain"][key] / max(medians["toolkit"][key], floor)
             for key, floor in (("seconds", 1e-6), ("megabytes", 1.0))}
    table.add_row("plain / toolkit", f"{ratio['seconds']:.0f}x", f"{ratio['megabytes']:.0f}x", *[""] * len(names))
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", help=f"one or more of {', '.join(CASES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each version")
    parser.add_argument("--repeats", type=int, default=1, help="runs per turn")
    parser.add_argument("--version", choices=["toolkit", "plain"], help="measure one version only and print JSON")
    arguments = parser.parse_args()
    unknown = [case for case in arguments.case if case not in CASES]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    for case in arguments.case or CASES:
        if arguments.version:
            measure(case, arguments.version, arguments.repeats)
        else:
            compare(case, rounds=arguments.rounds, repeats=arguments.repeats)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
