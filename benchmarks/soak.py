"""Kill a training run at random moments, and see that it ends as an undisturbed one.

    python benchmarks/soak.py work_dirs/soak
    python benchmarks/soak.py work_dirs/soak --steps 300 --minutes 3 --kills 5

The sample clips are cut into 40 files, four of which are then damaged. The demo config trains on them twice,
side by side with one thread each: undisturbed, and killed with -9 at random moments until there were enough
kills and minutes, each time going on with --resume. Then weights, optimizers and log must be the same, bit for bit.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file

from toolkit.data import iter_frames, sample_clips, write_video
from toolkit.data.reading.transforms import to_pixels

ROOT = Path(__file__).parents[1]
CLIP_FILES = {"bikes.mp4": 10, "bigbuckbunny.mp4": 4, "wolfgang_langer.mp4": 16, "single_face.mp4": 2,
              "test_movie.mp4": 8}
CLOCKS = ("time", "seconds_per_step")


def cut(folder: Path) -> None:
    """Write 40 files of 25 to 36 frames, and damage four."""
    folder.mkdir(parents=True)
    for clip in sample_clips("train", samples="full"):
        count = CLIP_FILES[clip.name]
        frames = list(iter_frames(clip))
        length = len(frames) // count
        for number in range(count):
            part = torch.stack(frames[number * length:(number + 1) * length])
            write_video(folder / f"{clip.stem}_{number:02}.mp4", to_pixels(part), fps=25)
    first, second, third, fourth = islice(sorted(folder.iterdir()), 3, 39, 9)
    first.write_bytes(first.read_bytes()[:5000])  # truncated
    second.write_bytes(b"")
    third.write_text("no video")
    content = bytearray(fourth.read_bytes())
    content[:64] = random.Random(0).randbytes(64)
    fourth.write_bytes(content)


class Run:
    """tools/train.py on the files, again and again with --resume."""

    def __init__(self, folder: Path, name: str, *, steps: int):
        self.work_dir, self.log = folder / name, folder / f"{name}.log"
        options = [f"data.train.dataset.path={folder / 'clips'}", f"training.max_steps={steps}",
                   "training.checkpoints.every=50", f"training.validate_every={steps // 6}",
                   "training.max_unreadable_share=0.2"]
        self.command = [sys.executable, str(ROOT / "tools/train.py"), str(ROOT / "configs/demo_video.py"), "--resume",
                        "--work-dir", str(self.work_dir), "--cfg-options", *options]
        self.process: subprocess.Popen | None = None
        self.memory: list[tuple[int, int]] = []  # (step, MiB)

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True,
                                            env={**os.environ, "OMP_NUM_THREADS": "1"})

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def step(self) -> int:
        file = self.work_dir / "metrics.jsonl"
        found = re.findall(r'"step": (\d+)', file.read_text()) if file.exists() else []
        return int(found[-1]) if found else 0

    def watch(self) -> bool:
        """Note its memory; whether it is still going."""
        status = Path(f"/proc/{self.process.pid}/status")
        if self.process.poll() is not None:
            return False
        if found := re.search(r"VmRSS:\s+(\d+)", status.read_text()):
            self.memory.append((self.step(), int(found[1]) // 1024))
        return True

    def last(self) -> dict[str, object]:
        """All that it ended with, by name."""
        checkpoint = max((self.work_dir / "checkpoints").glob("step_*"), key=lambda path: int(path.name[5:]))
        weights = {path.stem: load_file(path) for path in checkpoint.glob("*.safetensors")}
        states = {path.stem: torch.load(path, weights_only=True) for path in checkpoint.glob("*.pt")}
        lines = [json.loads(line) for line in (self.work_dir / "metrics.jsonl").read_text().splitlines()]
        log = [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]
        return {"tokenizer directory": load_file(self.work_dir / "tokenizer/model.safetensors"), "metrics.jsonl": log,
                **weights, **states}


def same(one: object, other: object) -> bool:
    """Bit for bit, through dictionaries and lists."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where files and runs are written; must not exist")
    parser.add_argument("--steps", type=int, default=3000, help="of each run (default: 3000)")
    parser.add_argument("--minutes", type=float, default=30, help="at least how long to go on killing (default: 30)")
    parser.add_argument("--kills", type=int, default=20, help="at least how many (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    arguments = parser.parse_args()
    if arguments.folder.exists():
        sys.exit(f"error: {arguments.folder} exists; give a folder that does not.")
    cut(arguments.folder / "clips")
    draw, started, kills = random.Random(arguments.seed), time.monotonic(), 0
    quiet, killed = (Run(arguments.folder, name, steps=arguments.steps) for name in ("undisturbed", "killed"))
    quiet.start(), killed.start()
    minutes = arguments.minutes * 60
    wait = minutes / arguments.kills / 1.25
    next_kill = time.monotonic() + draw.uniform(0.2, 1.8) * wait
    going = [True, True]
    while any(going):
        time.sleep(1)
        going = [quiet.watch(), killed.watch()]
        over = kills >= arguments.kills and time.monotonic() - started > minutes
        if time.monotonic() > next_kill and not over and going[1]:
            step = killed.step()
            killed.kill()
            kills += 1
            print(f"{(time.monotonic() - started) / 60:5.1f} min: killed at step {step} ({kills})", flush=True)
            killed.start()
            next_kill = time.monotonic() + draw.uniform(0.2, 1.8) * wait
    for run in (quiet, killed):
        if run.process.returncode:
            sys.exit(f"error: {run.work_dir} ended with {run.process.returncode}; see {run.log}.")
    settled = [size for step, size in quiet.memory if step > arguments.steps // 6]  # from the first validation on
    ends = [sorted(part)[len(part) // 2] for part in (settled[:len(settled) // 5], settled[-len(settled) // 5:])]
    unreadable = [{line.split("\t")[0] for line in (run.work_dir / "unreadable.txt").read_text().splitlines()}
                  for run in (quiet, killed)]
    results = {name: same(value, killed.last()[name]) for name, value in quiet.last().items()}
    print(f"{kills} kills in {(time.monotonic() - started) / 60:.1f} minutes, {arguments.steps} steps; the same as "
          f"undisturbed: {results}; unreadable files listed: {[len(names) for names in unreadable]}; memory of the "
          f"undisturbed run, median MiB of the first and the last fifth: {ends[0]}, {ends[1]}")
    if not all(results.values()) or kills < arguments.kills:
        sys.exit("error: the runs differ, or there were too few kills.")


if __name__ == "__main__":
    main()
