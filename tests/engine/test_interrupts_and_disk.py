"""A signal ends a run with a checkpoint; a full disk ends it with one error message."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
from engine.runs import assert_same_run, finish, run_to_end, signal_all, start, train_command, wait_for
from tools.commands import ENVIRONMENT
from training.tiny import metric_lines, tiny_config, write_config

from toolkit.training.checkpoint import checkpoints_in

pytestmark = pytest.mark.engine
STEPS = 30


@pytest.fixture(scope="module")
def config(clips, tmp_path_factory):
    changes = dict(training__max_steps=STEPS, training__checkpoints=dict(every=100, keep=1), data__train__num_workers=1)
    return write_config(tmp_path_factory.mktemp("configs") / "tiny.py", tiny_config(clips, gan=True, **changes))


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    run_to_end(train_command(config, work_dir))
    return work_dir


@pytest.mark.parametrize(("number", "num_processes"), [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGTERM, 2)],
                         ids=["SIGTERM", "Ctrl-C", "SIGTERM, two processes"])
def test_a_signal_finishes_the_step_writes_a_checkpoint_and_says_so(config, undisturbed, tmp_path, number,
                                                                    num_processes):
    command = train_command(config, tmp_path, "--resume", num_processes=num_processes)
    process = start(command)
    wait_for(process, tmp_path, step=3)
    signal_all(process, number)
    code, error = finish(process)
    checkpoint, = checkpoints_in(tmp_path / "checkpoints")
    step = int(checkpoint.name.removeprefix("step_"))
    assert code != 0 and 3 <= step < STEPS
    assert "stopping after this step, with a checkpoint" in error
    assert f"interrupted at step {step} with the checkpoint {checkpoint}. Add --resume" in error
    assert metric_lines(tmp_path)[-1]["step"] == step
    if num_processes == 1:
        assert code == 130 and "Traceback" not in error and not (tmp_path / "results.json").exists()
        assert f"resumed from {checkpoint}" in run_to_end(command) and (tmp_path / "results.json").exists()
        assert_same_run(undisturbed, tmp_path, step=STEPS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_first_step_is_answered_too(config, tmp_path, number):
    process = start(train_command(config, tmp_path))
    status = Path(f"/proc/{process.pid}/status")
    while not int(re.search(r"SigCgt:\s+(\w+)", status.read_text())[1], 16) >> (signal.SIGTERM - 1) & 1:
        time.sleep(0.01)
    time.sleep(0.5)  # in the middle of imports
    process.send_signal(number)
    code, error = finish(process, timeout=30)
    assert code == 130 and error.startswith("stopped at once") and "Traceback" not in error


def test_a_second_signal_stops_at_once(clips, tmp_path):
    # a step of some 20 seconds: the clips are large, and many
    slow = tiny_config(clips, training__max_steps=3, data__train__batch_size=4, data__train__dataset__size=32,
                       training__gradient_accumulation_steps=400)
    process = start(train_command(write_config(tmp_path / "slow.py", slow), tmp_path / "run"))
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None  # in the middle of its step
    os.kill(process.pid, signal.SIGINT)
    started = time.monotonic()
    code, error = finish(process, timeout=30)
    assert code == 130 and time.monotonic() - started < 10
    assert "stopped at once; --resume goes on from the last checkpoint" in error and "Traceback" not in error
    assert not checkpoints_in(tmp_path / "run" / "checkpoints")


def error_on_full_disk(command: list[str], written: dict[Path, bytes]) -> str:
    """The last line of a run that cannot write such files whole; they stay as they are."""
    # no file may grow beyond what logs and events take: as on a full disk, a write fails in the middle of a file
    limit = max(map(len, written.values())) // 2
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-3000:]
    assert all(path.read_bytes() == content for path, content in written.items())
    return done.stderr.splitlines()[-1]


def test_a_full_disk_stops_clearly_and_keeps_the_last_good_checkpoint(clips, tmp_path):
    config = tiny_config(clips, training__max_steps=3, training__checkpoints=dict(every=1, keep=1))
    command = train_command(write_config(tmp_path / "tiny.py", config), tmp_path / "run", "--resume")
    run_to_end([*command, "--cfg-options", "training.max_steps=1"])
    folder = tmp_path / "run" / "checkpoints"
    error = error_on_full_disk(command, {path: path.read_bytes() for path in (folder / "step_1").iterdir()})
    assert error.startswith("error: the checkpoint of step 2 cannot be written") and "last good one is step_1" in error
    assert "--resume" in error
    assert [path.name for path in folder.iterdir()] == ["step_1"]
    run_to_end(command)  # with room again
    assert [path.name for path in folder.iterdir()] == ["step_3"]
    assert [line["step"] for line in metric_lines(tmp_path / "run") if "total" in line] == [1, 2, 3]

    exported = tmp_path / "run" / "tokenizer"  # a finished run writes it again
    error = error_on_full_disk(command, {path: path.read_bytes() for path in exported.iterdir()})
    assert error.startswith(f"error: {tmp_path / 'run'} cannot be written to") and "last good one is step_3" in error
