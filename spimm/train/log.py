"""The record of a run: `log.jsonl` (one JSON object a line), TensorBoard, and the terminal."""

import json
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from spimm.files import open_own, parse_json, write_whole
from spimm.kernels import cpu_isa
from spimm.train.progress import ProgressView
from spimm.words import counted


class _Lines:
    """A file that grows by lines. What a full disk does not take waits for the next line, or for the end."""

    def __init__(self, path: Path) -> None:
        self._file = os.fdopen(open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab", buffering=0)
        self._waiting = b""

    def write(self, line: str) -> None:
        """OSError if the line, or one before it, has to wait."""
        self._waiting += line.encode()
        self._flush()

    def close(self) -> None:
        """OSError if lines are lost."""
        try:
            self._flush()
        finally:
            self._file.close()

    def _flush(self) -> None:
        while self._waiting:
            taken = self._file.write(self._waiting) or 0
            self._waiting = self._waiting[taken:]


class RunLog:
    """Writes records to `<folder>/log.jsonl`, their numbers to TensorBoard and a summary to the terminal.

    A record has `kind` (start, resume, step, epoch, stop; health, corrupt, skipped, unsaved), `step` (steps taken so
    far) and `time` (seconds since 1970). Of the steps, every `every`-th gets a record.

    A disk that is full does not end the run: the terminal says so, records wait, and TensorBoard ends. OSError at the
    end if records are lost then. A figure that is not finite is null.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: int = 1,
        tensorboard: bool = False,
        console: Console | None = None,
        classes: int | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "log.jsonl"
        self._every = every
        self._images, self._since, self._rate = 0, 0.0, 0.0
        self._tensorboard_folder = folder / "tensorboard" if tensorboard else None
        self._view = ProgressView(console or Console(stderr=True), classes=classes)
        self._file: _Lines | None = None
        self._waits = False
        self._writer: Any = None

    def open(self, *, step: int, total_steps: int, total_epochs: int) -> None:
        """Begins at `step`; lines of a run that had gone further before it broke off are dropped."""
        self._forget_after(step)
        self._file, self._waits = _Lines(self.path), False
        if self._tensorboard_folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._tensorboard_folder), purge_step=step + 1)
        self._view.start(step=step, total_steps=total_steps, total_epochs=total_epochs)
        self.restart_clock()

    def restart_clock(self) -> None:
        """Counts images per second from here: called where an epoch's training begins."""
        self._images, self._since = 0, time.perf_counter()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._view.stop()
        file, self._file = self._file, None
        self._end_tensorboard()
        try:
            if file is not None:
                file.close()
        except OSError as failure:
            lost = f"{self.path} lacks its last lines: {failure}"
            if kind is None:
                raise OSError(lost) from failure
            self.message(lost)

    def event(self, kind: str, *, step: int, **values: Any) -> None:
        """Adds a record of any other kind."""
        self._write({"kind": kind, "step": step, **values})

    def step(self, *, step: int, images: int, **values: float) -> None:
        """Counts a step of `images`; `values` are its epoch, loss, lr and grad_norm."""
        self._images += images
        if step % self._every == 0:
            self._rate = self._images / (time.perf_counter() - self._since)
            record = {**values, "images_per_second": self._rate}
            self._write({"kind": "step", "step": step, **record})
            self._scalars("step", step, record)
            self.restart_clock()
        self._view.step(step, {**values, "images_per_second": self._rate})

    def epoch(self, *, step: int, **values: float) -> None:
        """Adds an epoch: epoch, train_loss, seconds, and the evaluation where there was one."""
        self._write({"kind": "epoch", "step": step, **values})
        self._scalars("epoch", step, values)
        self._view.epoch(values)

    def message(self, text: str) -> None:
        """Shows `text` on the terminal."""
        self._view.message(text)

    @property
    def gone(self) -> bool:
        """Whether the folder was deleted or moved since the file was opened; a log by itself is no reason to stop."""
        return self._file is not None and not self.path.parent.is_dir()

    def _write(self, record: dict[str, Any]) -> None:
        assert self._file is not None
        try:
            stored = {key: None if _is_odd(value) else value for key, value in record.items()}
            self._file.write(json.dumps({**stored, "time": round(time.time(), 3)}, allow_nan=False) + "\n")
        except OSError as error:
            if not self._waits:
                self.message(f"{self.path} cannot be written ({error}): its lines wait")
            self._waits = True
        else:
            self._waits = False

    def _scalars(self, group: str, step: int, values: dict[str, float]) -> None:
        if self._writer is None:
            return
        try:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)
        except OSError as error:
            self.message(f"TensorBoard's files cannot be written ({error}): they end here")
            self._end_tensorboard()

    def _end_tensorboard(self) -> None:
        writer, self._writer = self._writer, None
        with suppress(OSError):
            if writer is not None:
                writer.close()

    def _forget_after(self, step: int) -> None:
        if not self.path.is_file():
            return
        kept, damaged = [], []
        for number, line in enumerate(self.path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                if 0 < step >= _record(line, f"line {number}")["step"]:
                    kept.append(line + b"\n")
            except ValueError:
                damaged.append(line + b"\n")
        if damaged and step:
            aside = self.path.with_name("log.damaged")
            before = aside.read_bytes() if aside.is_file() else b""
            write_whole(aside, lambda unfinished: unfinished.write_bytes(before + b"".join(damaged)))
            self.message(f"{counted(len(damaged), 'damaged line')} of {self.path} moved to {aside}")
        write_whole(self.path, lambda unfinished: unfinished.write_bytes(b"".join(kept)))


class SilentLog(RunLog):
    """The log of a rank that writes none."""

    def __init__(self) -> None:
        self._view = ProgressView(Console(quiet=True))
        self._file = self._writer = None

    @property
    def gone(self) -> bool:
        """Never."""
        return False

    def open(self, *, step: int, total_steps: int, total_epochs: int) -> None:
        """Nothing."""

    def restart_clock(self) -> None:
        """Nothing."""

    def event(self, kind: str, *, step: int, **values: Any) -> None:
        """Nothing."""

    def step(self, *, step: int, images: int, **values: float) -> None:
        """Nothing."""

    def epoch(self, *, step: int, **values: float) -> None:
        """Nothing."""


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a `log.jsonl`; a last line that a crash cut short is left out. ValueError for another bad line."""
    lines = path.read_bytes().split(b"\n")
    return [_record(line, f"line {number} of {path}") for number, line in enumerate(lines[:-1], start=1)]


def _record(line: bytes, where: str) -> dict[str, Any]:
    record = parse_json(line, where)
    if not (isinstance(record, dict) and type(record.get("step")) is int and isinstance(record.get("kind"), str)):
        raise ValueError(f"{where} is no record of a run: it must have a kind and a step")
    return record


def _is_odd(value: object) -> bool:
    """Whether JSON has no number for it."""
    return isinstance(value, float) and not math.isfinite(value)


def environment() -> dict[str, Any]:
    """What a number depends on beside the recipe: torch's version, its CPU threads, instruction sets of both."""
    sets = {"torch_isa": torch.backends.cpu.get_cpu_capability(), "spimm_isa": cpu_isa()}
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), **sets}
