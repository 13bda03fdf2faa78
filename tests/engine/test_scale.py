"""The commands that start several processes, on one machine and on two."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from engine.outcomes import EPS, differences, outcome
from mmengine.config import Config
from tools.commands import ENVIRONMENT, ROOT
from training.tiny import free_port, metric_lines, tiny_config, write_config

from toolkit import load_tokenizer
from toolkit.build import build_trainer
from toolkit.training.checkpoint import checkpoints_in

pytestmark = pytest.mark.engine

TIMEOUT = 120  # seconds, of any command
LOSS = 60  # seconds within which a launch ends after any process was lost


def config_of(clips: Path, *, batch_size: int, **changes: Any) -> dict[str, Any]:
    return tiny_config(clips, gan=True, data__train__batch_size=batch_size, training__eps=EPS, training__warmup_steps=2,
                       tokenizer__quantizer__inv_temperature=1.0, **changes)


@contextlib.contextmanager
def launched(*words: str) -> Iterator[subprocess.Popen]:
    """``accelerate launch`` on CPUs, with its output in one pipe; all its processes are killed afterwards."""
    # ACCELERATE_USE_CPU, not --cpu, which starts several processes through mpirun only.
    environment = {**ENVIRONMENT, "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", *words]
    process = subprocess.Popen(command, env=environment, text=True, start_new_session=True, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        for each in [*psutil.Process(process.pid).children(recursive=True), process] if process.poll() is None else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()


def wait_for(processes: list[subprocess.Popen], *, timeout: float = TIMEOUT) -> list[str]:
    """The output of each process, once all have ended."""
    deadline = time.monotonic() + timeout
    return [process.communicate(timeout=max(1.0, deadline - time.monotonic()))[0] for process in processes]


def test_accelerate_launch_trains_on_two_processes_and_writes_one_set_of_files(clips, tmp_path):
    lonely = tmp_path / "validation"  # one clip: the second process has none
    lonely.mkdir()
    shutil.copy(min(clips.iterdir()), lonely)
    changes = dict(training__max_steps=3, training__validate_every=2, training__checkpoints=dict(every=2, keep=1),
                   data__val__dataset__path=str(lonely))
    config, work_dir = write_config(tmp_path / "tiny.py", config_of(clips, batch_size=1, **changes)), tmp_path / "run"
    with launched("--main_process_port", str(free_port()), str(ROOT / "tools" / "train.py"), str(config),
                  "--work-dir", str(work_dir)) as process:
        output, = wait_for([process])
    assert process.returncode == 0, output[-3000:]
    assert output.count("video, validation set") == 1 and "thumbnail" in output
    assert [line["step"] for line in metric_lines(work_dir) if "total" in line] == [1, 2, 3]
    assert json.loads((work_dir / "run.json").read_text())["num_processes"] == 2
    assert len(list((work_dir / "events").glob("events*"))) == 1
    checkpoint, = (work_dir / "checkpoints").iterdir()
    assert checkpoint.name == "step_3" and len(list(checkpoint.glob("process_*.pt"))) == 2
    assert load_tokenizer(work_dir / "tokenizer").codebook_size == 2**6

    build_trainer(Config(config_of(clips, batch_size=2, **changes)), work_dir=tmp_path / "one").run()
    assert differences(outcome(work_dir), outcome(tmp_path / "one")) == {}


THREADS = """
import sys, time
from pathlib import Path
from toolkit import load_config
from toolkit.run import train

train(load_config(sys.argv[1]), work_dir=sys.argv[2])
time.sleep(1)  # a thread that has ended is listed a little longer
print("left:", [name for file in Path("/proc/self/task").glob("*/comm") if "gloo" in (name := file.read_text())])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are listed in /proc")
def test_processes_end_without_the_threads_of_their_group_which_would_abort_some_of_them(clips, tmp_path):
    config, script = write_config(tmp_path / "tiny.py", config_of(clips, batch_size=1)), tmp_path / "script.py"
    script.write_text(THREADS)
    with launched("--main_process_port", str(free_port()), str(script), str(config), str(tmp_path / "run")) as process:
        output, = wait_for([process])
    assert process.returncode == 0 and output.count("left: []") == 2, output[-3000:]


@contextlib.contextmanager
def two_nodes(*words: str) -> Iterator[list[subprocess.Popen]]:
    """The same command on each of two machines, with one process each; here both are this one."""
    place = ["--num_machines", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(launched(*place, "--machine_rank", rank, *words)) for rank in "01"]


def test_run_on_two_nodes_ends_with_a_lost_process_and_resumes_to_the_weights_of_one_process(clips, tmp_path):
    changes = dict(training__max_steps=10, training__checkpoints=dict(every=2, keep=None))
    config, work_dir = write_config(tmp_path / "tiny.py", config_of(clips, batch_size=1, **changes)), tmp_path / "run"
    command = [str(ROOT / "tools" / "train.py"), str(config), "--work-dir", str(work_dir)]

    with two_nodes(*command) as nodes:
        deadline = time.monotonic() + TIMEOUT
        while not checkpoints_in(work_dir / "checkpoints"):
            assert time.monotonic() < deadline and all(node.poll() is None for node in nodes), "no checkpoint was made"
            time.sleep(0.01)
        children = psutil.Process(nodes[1].pid).children(recursive=True)
        next(child for child in children if "train.py" in " ".join(child.cmdline())).kill()
        outputs = wait_for(nodes, timeout=LOSS)
    assert all(node.returncode not in (0, None) for node in nodes), outputs
    reached = checkpoints_in(work_dir / "checkpoints")[-1].name
    assert reached != "step_10"

    with two_nodes(*command, "--resume") as nodes:
        outputs = wait_for(nodes)
    assert [node.returncode for node in nodes] == [0, 0], [output[-3000:] for output in outputs]
    assert f"resumed from {work_dir / 'checkpoints' / reached}" in outputs[0]
    assert json.loads((work_dir / "run.json").read_text())["num_processes"] == 2

    build_trainer(Config(config_of(clips, batch_size=2, **changes)), work_dir=tmp_path / "one").run()
    assert differences(outcome(work_dir), outcome(tmp_path / "one")) == {}
