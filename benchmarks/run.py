"""Compare tokenizers with baselines (a thumbnail, video codecs, no quantizer) under the protocol of each suite.

    python benchmarks/run.py
    python benchmarks/run.py --tokenizer work_dirs/a/tokenizer work_dirs/b/tokenizer --suite samples_video
    python benchmarks/run.py --tokenizer DIR --suite imagenet_256 --data path/to/imagenet/val
    python benchmarks/run.py --train configs/demo_video.py configs/demo_video_fsq.py --steps 2000
    python benchmarks/run.py --train configs/demo_video.py configs/demo_video_ibq.py --flops 1e13
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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUITES = Path(__file__).with_name("suites")
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
    return parser.parse_args()


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
    from rich.console import Console

    from toolkit.evaluation.benchmark import ERRORS, measure_entries, write_summary
    from toolkit.evaluation.protocol import load_suite
    from toolkit.evaluation.results import Evaluation, Options
    from toolkit.evaluation.table import terminal_tables

    state = PartialState(cpu=arguments.device == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU"))
    if state.num_processes == 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.exit("error: there are several processes and no accelerators; add --device cpu if this is intended.")
    options = Options(**{name: value for name, value in vars(arguments).items() if name not in ("suite", "output")})
    failed = False

    def on_error(subject: object, error: Exception) -> None:
        nonlocal failed
        failed = True
        if state.is_main_process:
            print(f"error: {subject}: {' '.join(str(error).split())[:600]}", file=sys.stderr)

    for suite in arguments.suite:
        name, folder = Path(suite).stem, arguments.output
        if folder is None or len(arguments.suite) > 1:
            folder = (folder or Path("work_dirs") / "benchmark") / name
        try:
            evaluation = Evaluation(name, load_suite(suite, SUITES), folder, options, state=state)
            rows = measure_entries(evaluation, on_error)
            if rows and state.is_main_process:
                Console(width=max(150, Console().width)).print(terminal_tables(rows))
                write_summary(evaluation, rows)
                print(f"rows, table.md and report.html: {folder}")
        except ERRORS as error:
            on_error(f"suite {suite}", error)
        except KeyboardInterrupt:
            print("stopped; the same command continues from here.", file=sys.stderr)
            sys.exit(130)
    state.destroy_process_group()  # without it, torch may abort a process at exit
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
