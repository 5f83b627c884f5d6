"""A disk that takes no more: what is kept, what is said, and how a run ends."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from spimm import files
from spimm.data import ImageData
from spimm.train import Recipe, TrainResult, checkpoint, read_checkpoint, read_log, train
from spimm.train.checkpoint import FolderGone, NotWritten, write_checkpoint
from spimm.train.log import RunLog, _Lines

from .conftest import TinyNet
from .test_checkpoint import saved, step_of
from .test_resume import assert_same, assert_same_run, progress

LIMITED = """
import resource, signal, sys
from pathlib import Path
import torch
from spimm.train import Checkpoint
from spimm.train.checkpoint import NotWritten, write_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
write_checkpoint(folder, Checkpoint({"a": torch.zeros(10)}, {"step": 1}, optimizer={"a": torch.zeros(10)}))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
big = torch.zeros(10_000)
for weights, moments in ((big, big[:10]), (big[:10], big)):
    try:
        write_checkpoint(folder, Checkpoint({"a": weights.clone()}, {"step": 2}, optimizer={"a": moments.clone()}))
    except NotWritten as error:
        print(error)
"""


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def run(recipe: Recipe, out: Path, data: ImageData) -> tuple[TrainResult, str]:
    shown = StringIO()
    return train(recipe, out, data=data, model=TinyNet(), console=Console(file=shown, width=300)), shown.getvalue()


def refuse(monkeypatch: pytest.MonkeyPatch, when: Callable[[Path, int], bool]) -> None:
    """Makes the writing of checkpoints fail for the folders and steps for which `when` holds."""
    publish = checkpoint.publish

    def fail(fresh: Path, folder: Path, written: Any) -> None:
        if when(folder, written.state["step"]):
            (fresh / "half").write_bytes(bytes(1000))
            full()
        publish(fresh, folder, written)

    monkeypatch.setattr(checkpoint, "publish", fail)


def unsaved(out: Path) -> list[int]:
    return [record["step"] for record in read_log(out / "log.jsonl") if record["kind"] == "unsaved"]


def test_files_that_do_not_fit_leave_the_checkpoint_before_and_nothing_else(tmp_path: Path) -> None:
    """A limit on the size of files makes the writers fail as a full disk does."""
    arguments = [sys.executable, "-c", LIMITED, str(tmp_path / "last")]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert all("last could not be written (" in line and line.endswith("bytes are free") for line in lines)
    assert [path.name for path in tmp_path.iterdir()] == ["last"]
    assert step_of(tmp_path / "last") == 1


@pytest.mark.parametrize("operation", ["mkdir", "fsync", "replace"])
def test_a_failure_at_any_point_leaves_a_whole_checkpoint_and_room_for_the_next(
    operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path / "last", saved(step))
    with monkeypatch.context() as patch:
        patch.setattr(Path if operation == "mkdir" else os, operation, full)
        with pytest.raises(NotWritten, match=r"last could not be written \(.*No space left.*\), [\d,]+ bytes are free"):
            write_checkpoint(tmp_path / "last", saved(3))
    assert step_of(tmp_path / "last") == 2
    assert not (tmp_path / "last.new").exists()
    write_checkpoint(tmp_path / "last", saved(4))
    assert step_of(tmp_path / "last") == 4


def test_training_goes_on_without_a_checkpoint_that_failed_says_so_and_tries_again(
    recipe: Recipe, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(recipe, checkpoint_every=2)
    run(recipe, tmp_path / "whole", data)
    refuse(monkeypatch, lambda folder, step: folder.name == "last" and step in (6, 8))
    _, shown = run(recipe, tmp_path / "again", data)
    assert unsaved(tmp_path / "again") == [6, 8]
    good = tmp_path / "again" / "checkpoints" / "last"
    said = "No space left on device", f"training goes on, the last good checkpoint is {good}"
    assert [shown.count(text) for text in said] == [2, 2]
    one, other = (read_checkpoint(tmp_path / name / "checkpoints" / "last") for name in ("whole", "again"))
    assert_same(one.model, other.model)
    assert progress(tmp_path / "whole") == progress(tmp_path / "again")


def test_a_run_whose_last_checkpoint_fails_ends_with_an_error_and_keeps_the_one_before(
    recipe: Recipe, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        refuse(patch, lambda folder, step: step == 15)
        with pytest.raises(NotWritten, match=r"checkpoints/last could not be written .*No space left on device"):
            run(recipe, tmp_path, data)
    assert step_of(tmp_path / "checkpoints" / "last") == 10
    assert run(recipe, tmp_path, data)[0].step == 15


def test_the_best_evaluation_is_that_of_the_best_checkpoint_even_if_a_better_one_was_not_written(
    recipe: Recipe, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, lambda folder, step: folder.name == "best" and step > 5)
    result, _ = run(replace(recipe, epochs=8, lr=5e-2), tmp_path, data)
    assert result.best["epoch"] == 1
    assert step_of(result.best_checkpoint) == 5
    assert result.metrics["top1"] != result.best["top1"]


def test_lines_wait_until_there_is_room(tmp_path: Path) -> None:
    class Small:
        """A file that takes `room` bytes."""

        def __init__(self, room: int) -> None:
            self.room, self.content, self.closed = room, b"", False

        def write(self, text: bytes) -> int:
            if not self.room:
                full()
            taken = text[: self.room]
            self.content, self.room = self.content + taken, self.room - len(taken)
            return len(taken)

        def close(self) -> None:
            self.closed = True

    lines, file = _Lines(tmp_path / "log"), Small(4)
    lines._file.close()
    lines._file = file  # pyright: ignore[reportAttributeAccessIssue]
    lines.write("ab\n")
    for text in ("cd\n", "ef\n"):
        with pytest.raises(OSError, match="No space left"):
            lines.write(text)
    assert file.content == b"ab\nc"
    file.room = 100
    lines.write("gh\n")
    assert file.content == b"ab\ncd\nef\ngh\n"
    file.room = 0
    with pytest.raises(OSError, match="No space left"):
        lines.write("ij\n")
    with pytest.raises(OSError, match="No space left"):
        lines.close()
    assert file.closed


def test_a_log_on_a_full_disk_says_so_once_and_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = StringIO()
    with RunLog(tmp_path, console=Console(file=shown, width=300)) as log:
        log.open(step=0, total_steps=9, total_epochs=1)
        with monkeypatch.context() as patch:
            patch.setattr(_Lines, "_flush", full)
            for step in (1, 2):
                log.event("start", step=step)
        log.event("start", step=3)
    assert shown.getvalue().count("log.jsonl cannot be written") == 1
    assert [record["step"] for record in read_log(tmp_path / "log.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize("failed", [False, True])
def test_lines_that_are_lost_end_the_run_unless_it_ends_for_another_reason(
    failed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = StringIO()
    monkeypatch.setattr(_Lines, "_flush", full)
    wanted = (NotWritten, "the checkpoint") if failed else (OSError, r"log\.jsonl lacks its last lines: .*No space")
    with pytest.raises(wanted[0], match=wanted[1]), RunLog(tmp_path, console=Console(file=shown, width=300)) as log:
        log.open(step=0, total_steps=9, total_epochs=1)
        log.event("start", step=0)
        if failed:
            raise NotWritten("the checkpoint")
    assert shown.getvalue().count("lacks its last lines") == failed


def test_tensorboard_that_cannot_write_ends_and_the_run_goes_on(
    recipe: Recipe, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    result, shown = run(replace(recipe, tensorboard=True), tmp_path, data)
    assert result.completed
    assert shown.count("TensorBoard's files cannot be written") == 1


def refusing_folders(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    files._warn_of_folders.cache_clear()
    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("name", ["EINVAL", "EBADF", "EACCES", "ENOTSUP", "EPERM", "ENOSYS"])
def test_a_file_system_that_cannot_flush_folders_keeps_the_run_and_is_named_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refusing_folders(getattr(errno, name), monkeypatch)
    for step in (1, 2):
        write_checkpoint(tmp_path / "last", saved(step))
    assert step_of(tmp_path / "last") == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "folders cannot be flushed to this disk" in caplog.text


def test_a_folder_that_cannot_be_opened_to_be_flushed_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def windows(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", windows)
        files.flush(tmp_path)


@pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EDQUOT"])
def test_a_folder_that_the_disk_did_not_take_is_an_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing_folders(getattr(errno, name), monkeypatch)
    with pytest.raises(NotWritten, match="could not be written"):
        write_checkpoint(tmp_path / "last", saved(1))


@pytest.mark.parametrize("change", ["delete", "move"])
def test_a_run_whose_folder_goes_away_ends_with_an_error_and_does_not_bring_it_back(
    change: str, recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def lose(logits: Any) -> Any:
        shutil.rmtree(out) if change == "delete" else out.rename(tmp_path / "elsewhere")
        return logits

    with pytest.raises(FolderGone, match=rf"{out} was deleted or moved while the run trained into it, at step 10"):
        train(recipe, out, data=data, model=TinyNet(fail_at=7, fail=lose), console=Console(file=StringIO()))
    assert not out.exists()


def test_a_log_that_is_tidied_away_costs_nothing_but_its_lines(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    def tidy(logits: Any) -> Any:
        (tmp_path / "log.jsonl").unlink()
        return logits

    result = train(recipe, tmp_path, data=data, model=TinyNet(fail_at=7, fail=tidy), console=Console(file=StringIO()))
    assert result.completed and step_of(tmp_path / "checkpoints" / "last") == result.step


def test_an_epoch_whose_evaluation_fails_is_kept_and_evaluated_again(
    recipe: Recipe, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(recipe, whole, data)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="a broken test image"):
        patch.setattr("spimm.train.engine.evaluate", fail_to_evaluate)
        run(recipe, parts, data)
    assert step_of(parts / "checkpoints" / "last") == 5
    run(recipe, parts, data)
    assert_same_run(whole, parts)


def fail_to_evaluate(*_: object, **__: object) -> None:
    raise ValueError("a broken test image")


def test_a_figure_that_is_not_finite_is_null_in_the_log(tmp_path: Path) -> None:
    with RunLog(tmp_path, console=Console(file=StringIO())) as log:
        log.open(step=0, total_steps=9, total_epochs=1)
        log.event("epoch", step=1, loss=float("nan"), top1=10.0)
    assert {key: read_log(log.path)[0][key] for key in ("loss", "top1")} == {"loss": None, "top1": 10.0}
