"""A work dir has one run at a time, and a run has a launcher."""

import os
import signal
import subprocess
import sys

import pytest
from tools.commands import ENVIRONMENT

from toolkit.config import ConfigError
from toolkit.training.run_dir import lock_work_dir

LOCK = """
import sys, time
from pathlib import Path
from toolkit.training.run_dir import lock_work_dir
file = lock_work_dir(Path(sys.argv[1]))
if worker := __import__("os").fork():  # as a loader's worker, which lives on when this process is killed
    print(worker, flush=True)
time.sleep(60)
"""
LAUNCHED = """
import time
from toolkit.training.run_dir import die_with_launcher
die_with_launcher()
print("ready", flush=True)
time.sleep(60)
"""
LAUNCHER = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True).wait()
"""


def test_a_work_dir_is_refused_while_another_process_writes_to_it_and_no_longer(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", LOCK, tmp_path], env=ENVIRONMENT, text=True,
                             stdout=subprocess.PIPE)
    worker = int(other.stdout.readline())
    try:
        with pytest.raises(ConfigError, match=rf"being written by process {other.pid} of .*choose another --work-dir"):
            lock_work_dir(tmp_path, timeout=0.3)
        other.kill()
        other.wait()
        os.kill(worker, 0)  # it is there
        with lock_work_dir(tmp_path) as file:
            file.seek(0)
            assert file.read().startswith(f"process {os.getpid()} of ")
    finally:
        os.kill(worker, signal.SIGKILL)
        other.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_launched_process_ends_when_its_launcher_is_killed():
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, LAUNCHED], stdout=subprocess.PIPE, text=True,
                                env=ENVIRONMENT | {"TORCHELASTIC_RUN_ID": "test"})
    assert launcher.stdout.readline() == "ready\n"
    launcher.kill()
    assert launcher.stdout.read() == ""  # comes when the last process that holds the pipe has ended, not after 60 s
