"""Runs that SIGKILL ends, in processes of their own."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from spimm.data import ImageData
from spimm.train import Recipe, checkpoint, read_checkpoint, read_log, train
from spimm.train.checkpoint import find_checkpoint

from .conftest import TinyNet
from .test_resume import assert_same, assert_same_run

EVERY = 2
SETTINGS = ["epochs=1", "warmup_epochs=0", "batch_size=64", "model_options.num_steps=1", "tensorboard=false"]
COMMAND = [sys.executable, "-m", "spimm", "train", "digits", *SETTINGS, f"checkpoint_every={EVERY}", "log_every=1"]
STEPS = 22


def start(out: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, "device=cpu", "--out", str(out)], env=environment, cwd=out.parent, stderr=subprocess.DEVNULL
    )


def steps_done(out: Path) -> int:
    """Steps in the log and steps in the last checkpoint, as a crash leaves them."""
    log = out / "log.jsonl"
    return max((record["step"] for record in read_log(log)), default=0) if log.exists() else 0


def steps_kept(out: Path) -> int:
    found = find_checkpoint(out / "checkpoints" / "last")
    return 0 if found is None else read_checkpoint(found).state["step"]


def test_a_command_killed_at_random_moments_loses_one_checkpoint_interval_at_most_and_ends_as_if_never_killed(
    tmp_path: Path,
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert start(whole).wait() == 0
    chance = random.Random(0)
    for least in (3, 12):
        with start(parts) as process:
            while steps_done(parts) < least:
                assert process.poll() is None
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
        done, kept = steps_done(parts), steps_kept(parts)
        assert least <= done < STEPS
        assert done - EVERY <= kept <= done
    assert start(parts).wait() == 0
    one, other = (read_checkpoint(out / "checkpoints" / "last") for out in (whole, parts))
    assert one.state["step"] == STEPS
    assert_same(one.model, other.model)
    assert_same(one.state, other.state)


def train_and_die(recipe: Recipe, out: Path, data: ImageData, operation: str, call: int) -> None:
    """A run whose process gets SIGKILL right before the call of `operation` with that number."""
    owner, _, name = operation.rpartition(".")
    target: Any = {"checkpoint": checkpoint, "Path": Path, "os": os, "shutil": shutil}[owner]
    original, calls = getattr(target, name), []

    def die(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) > call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(target, name, die)
    torch.set_num_threads(1)
    train(recipe, out, data=data, model=TinyNet(), console=Console(file=StringIO()))


OPERATIONS = {
    "checkpoint.save_file": (1, 4),
    "Path.write_text": (9,),
    "os.fsync": (2, 17),
    "os.replace": (2, 3, 4, 5, 9),
    "shutil.rmtree": (0,),
}


@pytest.mark.parametrize(("operation", "call"), [(name, call) for name, calls in OPERATIONS.items() for call in calls])
def test_a_run_killed_while_it_writes_goes_on_and_ends_as_if_never_killed(
    operation: str, call: int, whole: Path, recipe: Recipe, data: ImageData, tmp_path: Path, forks: Callable[..., Any]
) -> None:
    process = forks(target=train_and_die, args=(recipe, tmp_path, data, operation, call))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    lost = steps_done(tmp_path) - steps_kept(tmp_path)
    assert 0 <= lost <= 5  # an epoch, the interval between checkpoints here
    train(recipe, tmp_path, data=data, model=TinyNet(), console=Console(file=StringIO()))
    assert_same_run(whole, tmp_path)


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Processes that start quickly, each a fork of one that has torch imported and nothing running."""
    # They look for this module by its name; last, so that an installed spimm goes before the sources here.
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[2])])
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["spimm.train"])
    return server.Process


@pytest.fixture
def whole(recipe: Recipe, data: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing ended."""
    out = tmp_path_factory.mktemp("whole")
    train(recipe, out, data=data, model=TinyNet(), console=Console(file=StringIO()))
    return out
