"""The command line under torchrun, with a process of it killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from spimm.data import load_data
from spimm.train import build_loader, load_run, read_log

SETTINGS = [
    "epochs=1",
    "warmup_epochs=0",
    "batch_size=64",
    "checkpoint_every=4",
    "log_every=1",
    "device=cpu",
    "tensorboard=false",
]
LIMIT = 120
"""Seconds."""


def start(out: Path, processes: int) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "spimm"]
    command = [sys.executable, *launcher, "train", "digits", "--out", str(out), *SETTINGS]
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=out.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def children(parent: int) -> list[int]:
    """Process numbers in the order in which they began: that of the local ranks."""
    return sorted(int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split())


def wait_for_step(log: Path, step: int) -> None:
    deadline = time.monotonic() + LIMIT
    while not (log.is_file() and any(record["step"] >= step for record in read_log(log))):
        assert time.monotonic() < deadline, f"{log} has no step {step}"
        time.sleep(0.05)


def test_a_killed_process_ends_the_job_and_the_command_goes_on_with_another_number_of_them(tmp_path: Path) -> None:
    job = start(tmp_path, 2)
    wait_for_step(tmp_path / "log.jsonl", 6)
    os.kill(children(job.pid)[1], signal.SIGKILL)
    killed = time.monotonic()
    _, shown = job.communicate(timeout=LIMIT)
    assert time.monotonic() - killed < 60
    assert job.returncode != 0
    assert "rank 0 of 2 lost another rank" in shown
    assert f"the last good checkpoint is {tmp_path / 'checkpoints' / 'last'}" in shown
    last = start(tmp_path, 1)
    said, shown = last.communicate(timeout=LIMIT)
    assert last.returncode == 0, shown
    assert said.count("last epoch: top-1") == 1
    records = read_log(tmp_path / "log.jsonl")
    assert [record["ranks"] for record in records if "ranks" in record] == [2, 1]
    steps = [record["step"] for record in records if record["kind"] == "step"]
    assert steps == list(range(1, steps[-1] + 1))
    recipe, _ = load_run(tmp_path)
    assert len(steps) == len(build_loader(recipe, load_data("digits"), train=True))
    assert [record["epoch"] for record in records if record["kind"] == "epoch"] == [1]
