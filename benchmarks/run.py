"""Compare tokenizers under one protocol, with untrained codecs at the same bits per pixel beside them.

    python benchmarks/run.py
    python benchmarks/run.py --tokenizer work_dirs/a/tokenizer work_dirs/b/tokenizer --suite samples_video
    python benchmarks/run.py --tokenizer DIR --suite imagenet_256 --data path/to/imagenet/val
    python benchmarks/run.py --train configs/demo_video.py configs/demo_video_fsq.py --steps 2000
    accelerate launch --num_processes 8 benchmarks/run.py --tokenizer DIR --suite imagenet_256

Without arguments four quantizers in one small network are trained and compared on the sample clips, which takes about
half an hour on two cores. The same command again goes on where it stopped, and recomputes nothing that is finished.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SWEEP = [ROOT / "configs" / f"demo_video{name}.py" for name in ("", "_bsq", "_fsq", "_vq")]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="+", default=["samples_video"], metavar="NAME",
                        help="of benchmarks/suites, or a file of your own; list shows them (default: samples_video)")
    parser.add_argument("--tokenizer", nargs="+", type=Path, default=[], metavar="DIR", help="trained tokenizers")
    parser.add_argument("--train", nargs="+", type=Path, default=[], metavar="CONFIG",
                        help="train these first, on the data, with the seed and for the steps of the first")
    parser.add_argument("--steps", type=int, help="of training (default: the suite's, else the first config's)")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="on top of every config")
    parser.add_argument("--data", type=Path, help="where the suite's data lies (default: as the suite says)")
    parser.add_argument("--limit", type=int, help="take so many samples; that is another protocol")
    parser.add_argument("--metrics", nargs="+", metavar="TYPE", help="only these of the suite; another protocol, too")
    parser.add_argument("--output", type=Path, help="folder of the results (default: work_dirs/benchmark/SUITE)")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: the accelerator, where there is one)")
    return parser.parse_args()


class Run:
    """One suite: its contenders measured one after the other, whatever happens to one of them."""

    def __init__(self, suite: str, folder: Path, arguments: argparse.Namespace, state: Any):
        import dataclasses

        from protocol import load_suite
        from rows import Bench

        self.folder, self.arguments, self.state, self.failed = folder, arguments, state, False
        settings = load_suite(suite)
        protocol = settings.protocol
        if arguments.metrics:
            known = [config["type"] for config in protocol.metrics]
            unknown = [name for name in arguments.metrics if name not in known]
            if unknown:
                raise ValueError(f"suite {suite} has no metric {', '.join(unknown)}; it has {', '.join(known)}.")
            chosen = tuple(config for config in protocol.metrics if config["type"] in arguments.metrics)
            protocol = dataclasses.replace(protocol, metrics=chosen)
        if arguments.limit is not None:
            if arguments.limit < 1:
                raise ValueError(f"--limit takes a number of samples from 1 on, got {arguments.limit}.")
            protocol = dataclasses.replace(protocol, num_samples=arguments.limit)
        self.bench = Bench(
            Path(suite).stem, settings, protocol, folder, str(arguments.data) if arguments.data else settings.path,
            arguments.limit, arguments.batch_size, arguments.num_workers, device_of(arguments, state),
            rank=state.process_index, world_size=state.num_processes)

    def fail(self, who: str, error: Exception) -> None:
        """Say what went wrong with one row, and go on."""
        self.failed = True
        if self.state.is_main_process:
            print(f"error: {who}: {' '.join(str(error).split())[:600]}", file=sys.stderr)

    def contenders(self) -> list[Any]:
        """The tokenizers, those of a sweep trained now, and the anchors of all."""
        import contenders as of

        tokenizers, anchors = [], []
        for path in self.arguments.tokenizer:
            title = path.resolve().parent.name if path.name == "tokenizer" else path.resolve().name
            try:
                tokenizers.append(of.tokenizer_contender(path, self.bench.protocol, name=title, title=title))
                anchors.append(of.unquantized(tokenizers[-1]))
            except errors() as error:
                self.fail(str(path), error)
        for variant, trained in self.trained():
            contender = of.tokenizer_contender(*trained[:1], self.bench.protocol, name=variant.name,
                                               title=variant.title, training=trained[1])
            if contender.rate is None and variant.name == "no_quantizer":
                anchors.append(of.Contender(contender.name, contender.title, "anchor", contender.spec,
                                            training=trained[1]))
            else:
                tokenizers.append(contender)
        untrained = of.untrained_anchors(tokenizers, self.bench.protocol) if tokenizers else []
        found = [*tokenizers, *untrained, *anchors]
        names = [one.name for one in found]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two rows would be called {', '.join(sorted(twice))}; rename a tokenizer's folder.")
        return found

    def trained(self) -> list[tuple[Any, tuple[Path, dict[str, Any]]]]:
        """The variants of the sweep with their tokenizers; one whose training fails is left out."""
        from sweep import train, variants_of

        from toolkit.config import parse_overrides

        if not self.arguments.train:
            return []
        overrides, steps = parse_overrides(self.arguments.cfg_options), self.arguments.steps
        if steps is None and "training.max_steps" not in overrides:
            steps = self.bench.settings.steps
        found = []
        for variant in variants_of(self.arguments.train, steps=steps, overrides=overrides):
            try:
                found.append((variant, train(variant, self.folder / "training")))
            except errors() as error:
                self.fail(f"training {variant.title}", error)
            self.state.wait_for_everyone()
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Measure what is not there yet."""
        from rows import measure

        rows = []
        for order, contender in enumerate(self.contenders()):
            try:
                path = self.folder / f"{contender.name}.json"
                row = finished(path, self.bench.fingerprint(contender))
                if row is None:
                    logging.info("measuring %s.", contender.title)
                    row = measure(self.bench, contender, order=order)
                    if self.state.is_main_process:
                        write_json(path, row)
                else:
                    logging.info("%s is there already: %s.", contender.title, path)
                rows.append(row)
                if row["unreadable"]:
                    self.fail(contender.title, ValueError("unreadable files were left out of its scores: "
                                                          + "; ".join(row["unreadable"].values())))
            except errors() as error:
                self.fail(contender.title, error)
            self.state.wait_for_everyone()
        return rows

    def report(self, rows: list[dict[str, Any]]) -> None:
        """Print the table; write it and the page beside the rows."""
        from report import write_report
        from table import markdown, print_table

        rows = sorted(rows, key=lambda row: row["kind"] == "anchor")
        print_table(rows)
        (self.folder / "table.md").write_text(markdown(rows) + "\n")
        write_report(rows, self.folder / "report.html", title=f"Tokenizers on {self.bench.suite}")
        print(f"rows, table.md and report.html: {self.folder}")


def errors() -> tuple[type[Exception], ...]:
    """What may go wrong with one row."""
    from toolkit.assets import AssetError
    from toolkit.contracts import DataError
    from toolkit.registry import PluginError, UnknownComponentError

    return (AssetError, DataError, OSError, PluginError, RuntimeError, TypeError, UnknownComponentError, ValueError)


def device_of(arguments: argparse.Namespace, state: Any) -> Any:
    import torch

    return torch.device(arguments.device) if arguments.device else state.device


def finished(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """The row in a file, if it is whole and of the same data, protocol and contender."""
    try:
        row = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return row if row.get("fingerprint") == fingerprint else None


def write_json(path: Path, row: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(row, indent=1, allow_nan=False) + "\n")
    os.replace(partial, path)


def list_suites() -> None:
    from protocol import load_suite, suite_names

    for name in suite_names():
        print(f"{name:24} {load_suite(name).protocol}")


def main() -> None:
    arguments = parse()
    main_process = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if main_process else logging.ERROR, format="%(message)s", stream=sys.stderr)
    for talkative in ("httpx", "toolkit.build"):  # which says of every codec without a codebook that it has none
        logging.getLogger(talkative).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*set_vital.*")  # torchdata calls what torch deprecates
    if arguments.suite == ["list"]:
        return list_suites()
    if not arguments.tokenizer and not arguments.train:
        arguments.train = SWEEP
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    state = PartialState(cpu=arguments.device == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU"))
    if state.num_processes == 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.exit("error: there are several processes and no accelerators; add --device cpu if that is meant.")
    failed = False
    for suite in arguments.suite:
        folder = arguments.output or Path("work_dirs") / "benchmark"
        if arguments.output is None or len(arguments.suite) > 1:
            folder = folder / Path(suite).stem
        try:
            run = Run(suite, folder, arguments, state)
            rows = run.rows()
            failed |= run.failed
            if rows and state.is_main_process:
                run.report(rows)
        except errors() as error:
            failed = True
            if state.is_main_process:
                print(f"error: suite {suite}: {' '.join(str(error).split())[:600]}", file=sys.stderr)
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here.", file=sys.stderr)
            sys.exit(130)
    state.destroy_process_group()  # a process that ends within its group may be aborted
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
