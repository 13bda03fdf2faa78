"""Compare tokenizers with baselines (a thumbnail, video codecs, no quantizer) under the protocol of each suite.

    python benchmarks/run.py
    python benchmarks/run.py --tokenizer work_dirs/a/tokenizer work_dirs/b/tokenizer --suite samples_video
    python benchmarks/run.py --tokenizer DIR --suite imagenet_256 --data path/to/imagenet/val
    python benchmarks/run.py --train configs/demo_video.py configs/demo_video_fsq.py --steps 2000
    python benchmarks/run.py --train configs/demo_video.py configs/demo_video_ibq.py --flops 1e13
    python benchmarks/run.py --leaderboard small
    accelerate launch --num_processes 8 benchmarks/run.py --tokenizer DIR --suite imagenet_256

Without arguments four quantizers in one small network are trained and compared on the sample clips, which takes about
half an hour on two cores. The same command continues an interrupted run, and does not compute finished rows again.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import PartialState

    from toolkit.evaluation.benchmark import OnError
    from toolkit.evaluation.results import Options

ROOT = Path(__file__).resolve().parents[1]
SUITES, LEADERBOARDS = (Path(__file__).with_name(name) for name in ("suites", "leaderboards"))
SWEEP = [ROOT / "configs" / f"demo_video{name}.py" for name in ("", "_bsq", "_fsq", "_vq")]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="+", default=["samples_video"], metavar="NAME",
                        help="suites in benchmarks/suites, or .py files; 'list' prints them (default: samples_video)")
    parser.add_argument("--tokenizer", nargs="+", default=[], metavar="DIR",
                        help="trained tokenizers: folders, hub ids or shipped names")
    parser.add_argument("--revision", help="of the hub ids: a branch, a tag or a commit; the results record the commit")
    parser.add_argument("--subfolder", metavar="DIR", help="the folder of each tokenizer within its folder or hub id")
    parser.add_argument("--train", nargs="+", type=Path, default=[], metavar="CONFIG",
                        help="configs to train and to measure, all with the data, seed and steps of the first")
    parser.add_argument("--leaderboard", metavar="NAME",
                        help="a leaderboard in benchmarks/leaderboards, or a .py file: its entries, suites, FLOPs and "
                             "seeds; only --output, --baseline, --batch-size, --num-workers and --device may be "
                             "given with it")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int,
                        help="training steps (default: as in --cfg-options, else the suite, else the first config)")
    length.add_argument("--flops", type=float,
                        help="train each config for as many steps as fit in so many FLOPs, such as 1e15, of all "
                             "processes, instead of the same number of steps")
    parser.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
                        help="override every config")
    parser.add_argument("--data", type=Path, help="folder, list file or glob of the data (default: the suite's path)")
    parser.add_argument("--limit", type=int,
                        help="use so many samples, evenly spaced (random clips: the first); this is another protocol")
    parser.add_argument("--metrics", nargs="+", default=[], metavar="TYPE",
                        help="only these metrics of the suite; this is another protocol")
    parser.add_argument("--baseline", nargs="+", action="extend", default=[], metavar="TYPE",
                        help="registered baselines besides Thumbnail, x264 and x265, such as MeanColour")
    parser.add_argument("--output", type=Path,
                        help="folder of results; of several suites, the parent (default: work_dirs/benchmark/SUITE)")
    parser.add_argument("--batch-size", type=int, default=4, help="samples per batch in each process (default: 4)")
    parser.add_argument("--num-workers", type=int, default=0, help="loading processes of each process (default: 0)")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: the accelerator, if there is one)")
    arguments = parser.parse_args()
    usable = ("leaderboard", "output", "baseline", "batch_size", "num_workers", "device")
    given = [name for name, value in vars(arguments).items()
             if name not in usable and value != parser.get_default(name)]
    if arguments.leaderboard and given:
        parser.error(f"a leaderboard's file determines {', '.join(given)}; write another file to change that.")
    return arguments


def list_suites() -> None:
    from toolkit.evaluation.protocol import load_suite, suite_names

    for name in suite_names(SUITES):
        print(f"{name:24} {load_suite(name, SUITES).protocol}")


def main() -> None:
    arguments = parse()
    main_process = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if main_process else logging.ERROR, format="%(message)s", stream=sys.stderr)
    for verbose in ("httpx", "toolkit.build"):
        logging.getLogger(verbose).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*set_vital.*")  # torchdata calls a deprecated function of torch
    if arguments.suite == ["list"]:
        return list_suites()
    if not arguments.tokenizer and not arguments.train:
        arguments.train = SWEEP
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    from toolkit.evaluation.benchmark import ERRORS
    from toolkit.evaluation.results import Options

    state = PartialState(cpu=arguments.device == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU"))
    if state.num_processes == 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.exit("error: there are several processes and no accelerators; add --device cpu if this is intended.")
    options = Options(**{name: value for name, value in vars(arguments).items()
                         if name not in ("suite", "output", "leaderboard")})
    failed = False

    def on_error(subject: object, error: Exception) -> None:
        nonlocal failed
        failed = True
        if state.is_main_process:
            print(f"error: {subject}: {' '.join(str(error).split())[:600]}", file=sys.stderr)

    jobs = {f"suite {suite}": partial(run_suite, suite) for suite in arguments.suite}
    if arguments.leaderboard:
        jobs = {f"leaderboard {arguments.leaderboard}": run_leaderboard}
    for subject, job in jobs.items():
        try:
            job(arguments, options, state, on_error)
        except ERRORS as error:
            on_error(subject, error)
        except KeyboardInterrupt:
            print("stopped; the same command continues from here.", file=sys.stderr)
            sys.exit(130)
    state.destroy_process_group()  # without it, torch may abort a process at exit
    sys.exit(1 if failed else 0)


def run_suite(suite: str, arguments: argparse.Namespace, options: Options, state: PartialState,
              on_error: OnError) -> None:
    from rich.console import Console

    from toolkit.evaluation.benchmark import measure_entries, write_summary
    from toolkit.evaluation.protocol import load_suite
    from toolkit.evaluation.results import Evaluation
    from toolkit.evaluation.table import terminal_tables

    name, folder = Path(suite).stem, arguments.output
    if folder is None or len(arguments.suite) > 1:
        folder = (folder or Path("work_dirs") / "benchmark") / name
    evaluation = Evaluation(name, load_suite(suite, SUITES), folder, options, state=state)
    rows = measure_entries(evaluation, on_error)
    if rows and state.is_main_process:
        Console(width=max(150, Console().width)).print(terminal_tables(rows))
        write_summary(evaluation, rows)
        print(f"rows, table.md and report.html: {folder}")


def run_leaderboard(arguments: argparse.Namespace, options: Options, state: PartialState, on_error: OnError) -> None:
    from toolkit.evaluation.leaderboard import LeaderboardRun

    folder = arguments.output or Path("work_dirs") / "leaderboard" / Path(arguments.leaderboard).stem
    run = LeaderboardRun(arguments.leaderboard, files=LEADERBOARDS, suites=SUITES, folder=folder, options=options,
                         state=state)
    table = run.run(on_error)
    if state.is_main_process:
        print(f"{table}\n\nresults and table.md: {folder}")


if __name__ == "__main__":
    main()
