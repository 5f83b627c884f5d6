import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from spimm.data import ImageData
from spimm.train import Recipe, TrainResult, build_model, load_recipe, train
from spimm.train.folder import FolderInUse, check_room, checkpoint_bytes, claim_folder
from spimm.train.run import build_data

from .conftest import TinyNet

Usage = namedtuple("Usage", "total used free")

HOLD = """
import sys
from pathlib import Path
from spimm.train.folder import claim_folder
with claim_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holding(script: str, out: Path) -> subprocess.Popen[str]:
    """A process, the first of a group of its own, that runs `script` on `out`."""
    pipe = subprocess.PIPE
    arguments = [sys.executable, "-c", script, str(out)]
    return subprocess.Popen(arguments, text=True, start_new_session=True, stdin=pipe, stdout=pipe)


def run(recipe: Recipe, out: Path, data: ImageData, model: TinyNet | None = None) -> TrainResult:
    return train(recipe, out, data=data, model=model or TinyNet(), console=Console(file=StringIO()))


def test_a_second_training_into_a_folder_is_refused_until_the_first_is_gone_even_by_sigkill(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    with holding(HOLD, tmp_path) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(FolderInUse, match=rf"^process {other.pid} on \S+ trains into {tmp_path}: .*another folder"):
            run(recipe, tmp_path, data)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        other.kill()
    assert run(recipe, tmp_path, data).completed


def test_a_forked_child_that_outlives_its_parents_claim_does_not_hold_it(tmp_path: Path) -> None:
    script = f"import os, time\n{HOLD.replace('print', 'os.fork() or time.sleep(60)' + chr(10) + '    print')}"
    with holding(script, tmp_path) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        other.kill()
        other.wait()
        with claim_folder(tmp_path):
            os.killpg(other.pid, 9)


def test_a_folder_that_cannot_be_written_is_refused_before_training(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    model = TinyNet()
    for out in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(OSError, match=rf"the run's folder {out} must be writable: "):
            run(recipe, out, data, model)
    assert model.training_steps == 0


def test_a_full_disk_is_noticed_before_training_with_the_bytes_that_are_free_and_wanted(
    recipe: Recipe, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 10**6 - 5000, 5000))
    model = TinyNet()
    with pytest.raises(OSError, match=r"has 5,000 bytes free, training wants [\d,]+: 5 checkpoints of .* 26 records"):
        run(recipe, tmp_path, data, model)
    assert model.training_steps == 0


def test_checkpoints_of_before_make_room_for_those_to_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 5000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 10**6 - free, free))
    with pytest.raises(OSError, match=r"5,000 bytes free, training wants 10,000: 5 checkpoints of 2,000"):
        check_room(tmp_path, checkpoint=2000, records=0)
    (tmp_path / "checkpoints" / "last").mkdir(parents=True)
    (tmp_path / "checkpoints" / "last" / "model").write_bytes(bytes(5000))
    check_room(tmp_path, checkpoint=2000, records=0)
    with pytest.raises(OSError, match=r"training wants 6,024"):
        check_room(tmp_path, checkpoint=2000, records=1)


@pytest.mark.parametrize("settings", [{}, {"ema_decay": 0.9}, {"optimizer": "lamb"}])
def test_the_room_asked_for_is_that_of_the_checkpoints_written(settings: dict[str, object], tmp_path: Path) -> None:
    recipe = replace(
        load_recipe("digits"), epochs=1, warmup_epochs=0, batch_size=16, tensorboard=False, device="cpu", **settings
    )
    digits = build_data(recipe)
    few = replace(digits, train=digits.train.subset(range(16)), test=digits.test.subset(range(16)))
    result = train(recipe, tmp_path, data=few, console=Console(file=StringIO()))
    written = sum(path.stat().st_size for path in result.last_checkpoint.iterdir())
    wanted = checkpoint_bytes(build_model(recipe, few), averaged="ema_decay" in settings)
    assert 0.9 * wanted < written < 1.05 * wanted


@pytest.mark.parametrize("name", ["ENOLCK", "ENOSYS", "EINVAL", "ENOTSUP"])
def test_a_file_system_without_locks_is_said_and_used(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with claim_folder(tmp_path):
        pass
    assert f"{tmp_path} has no locks" in caplog.text


def test_a_file_system_that_does_not_say_how_large_it_is_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 0))
    check_room(tmp_path, checkpoint=2000, records=1)
