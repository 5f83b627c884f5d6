"""The record of a run: `log.jsonl` (one JSON object a line), TensorBoard, and the terminal."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from spimm.files import write_text
from spimm.train.progress import ProgressView


class RunLog:
    """Writes records to `<folder>/log.jsonl`, their numbers to TensorBoard and a summary to the terminal.

    A record has `kind` (start, resume, step, epoch, stop), `step` (steps taken so far) and `time` (seconds since 1970).
    Of the steps, every `every`-th gets a record.
    """

    def __init__(
        self, folder: Path, *, every: int = 1, tensorboard: bool = False, console: Console | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "log.jsonl"
        self._every = every
        self._images, self._since, self._rate = 0, 0.0, 0.0
        self._tensorboard_folder = folder / "tensorboard" if tensorboard else None
        self._view = ProgressView(console or Console(stderr=True))
        self._file: Any = None
        self._writer: Any = None

    def open(self, *, step: int, total_steps: int, total_epochs: int) -> None:
        """Begins at `step`; lines of a run that had gone further before it broke off are dropped."""
        self._forget_after(step)
        self._file = self.path.open("a", encoding="utf-8")
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

    def __exit__(self, *error: object) -> None:
        self._view.stop()
        for sink in (self._file, self._writer):
            if sink is not None:
                sink.close()
        self._file = self._writer = None

    def event(self, kind: str, *, step: int, **values: Any) -> None:
        """Adds a `start`, `resume` or `stop` record."""
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

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps({**record, "time": round(time.time(), 3)}, allow_nan=False) + "\n")
        self._file.flush()

    def _scalars(self, group: str, step: int, values: dict[str, float]) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def _forget_after(self, step: int) -> None:
        if not self.path.exists():
            return
        kept = [json.dumps(record) + "\n" for record in read_log(self.path) if 0 < step >= record["step"]]
        write_text(self.path, "".join(kept))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a `log.jsonl`; a last line that a crash cut short is left out. ValueError for another bad line."""
    lines = path.read_text(encoding="utf-8").split("\n")
    records = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} of {path} is not JSON: {error}") from error
    return records


def environment() -> dict[str, Any]:
    """What a number depends on beside the recipe: torch's version and its CPU threads."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}
