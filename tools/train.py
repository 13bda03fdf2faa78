"""Train a tokenizer from a config.

    python tools/train.py configs/demo_video.py
    python tools/train.py configs/magvit2_video.py --cfg-options data.train.dataset.path=/data/clips
    accelerate launch --num_processes 8 tools/train.py configs/magvit2_video.py --resume
    python tools/train.py configs/magvit2_video.py --dry-run
"""

import argparse
import logging
import os
import signal
import sys
import warnings
from pathlib import Path

STOPPED = "stopped at once; --resume goes on from the last checkpoint, if there is one."


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a config file; it is code, so run only what you trust")
    parser.add_argument("--work-dir", type=Path, help="where the run is written (default: work_dirs/CONFIG)")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint in the work dir")
    parser.add_argument("--dry-run", action="store_true", help="only say what the run would cost; nothing is written")
    parser.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
                        help="settings on top of the config, such as training.max_steps=100 training.betas=[0.9,0.95]")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    main_process = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if main_process else logging.ERROR, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*set_vital.*")  # torchdata calls what torch deprecates
    from rich.console import Console

    from toolkit import load_config
    from toolkit.assets import AssetError
    from toolkit.build import build_run
    from toolkit.contracts import DataError
    from toolkit.profiling.dry_run import run_cost
    from toolkit.profiling.tables import cost_tables, write_results
    from toolkit.registry import PluginError, UnknownComponentError
    from toolkit.run import train
    from toolkit.training.run_dir import die_with_launcher

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # where training itself does not answer
    die_with_launcher()
    show = Console(width=max(100, Console().width)).print
    work_dir = arguments.work_dir or Path("work_dirs") / Path(arguments.config).stem
    try:
        config = load_config(arguments.config, options=arguments.cfg_options)
        if arguments.dry_run:
            num_processes = int(os.environ.get("WORLD_SIZE", "1"))
            cost = run_cost(build_run(config, num_processes=num_processes, weights=False), num_processes=num_processes)
            return show(cost_tables(cost)) if main_process else None
        results = train(config, work_dir=work_dir, resume=arguments.resume)
        if results is None:
            sys.exit(130)
        if main_process:
            show(write_results(results, work_dir))
            print(f"tokenizer: {work_dir / 'tokenizer'}; samples: {work_dir / 'samples'}")
    except (AssetError, DataError, OSError, PluginError, TypeError, UnknownComponentError, ValueError) as error:
        logging.debug("where it happened", exc_info=True)
        sys.exit(f"error: {error}")


def exit_at_once(*_: object) -> None:
    os.write(2, f"{STOPPED}\n".encode())
    os._exit(130)


def main() -> None:
    arguments = parse()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, exit_at_once)  # an exception within the import of torch may abort the process
    try:
        run(arguments)
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
