"""What the files of a training run say: its recipe, its figures, how long it took."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from spimm.analyze import Trace, sparsity
from spimm.train import Recipe, read_log


@dataclass(frozen=True)
class RunFiles:
    """Files of one run in a folder; `where` picks its lines in a log of several."""

    log: str
    where: Mapping[str, Any]
    trace: str | None = None
    """trace.json of `spimm analyze` on all test images, for the spikes a neuron of the weights kept as best."""
    energy: str | None = None
    """energy.json of `spimm analyze`, at measured rates."""

    def named(self) -> tuple[str, ...]:
        """Those that there are."""
        return tuple(file for file in (self.log, self.trace, self.energy) if file is not None)


@dataclass(frozen=True)
class LoggedRun:
    """A finished run."""

    recipe: Recipe
    figures: dict[str, float]
    """After the last epoch, in %, a tie being no hit (older logs do not tell ties); `best_top1` of any epoch, or where
    images are held out of the one that they choose; `sparsity`, and `energy` in mJ, where their files are."""
    images: int
    """Test images."""
    minutes: float
    date: str
    """Start, UTC."""
    device: str
    torch: str
    threads: int


def read_run(folder: Path, files: RunFiles) -> LoggedRun:
    """The run as its files tell it. Averaged weights take precedence where there are both.

    Raises FileNotFoundError for a missing file and ValueError for a log without a start, without lines of this run, or
    of a run that has not come to the end of its last epoch.
    """
    path = folder / files.log
    if not path.is_file():
        raise FileNotFoundError(f"there is no log {path}")
    lines = [line for line in read_log(path) if all(line.get(key) == value for key, value in files.where.items())]
    starts = [line for line in lines if line["kind"] in ("start", "resume")]
    if not starts:
        raise ValueError(f"{path} has no start of a run with {dict(files.where)}")
    if len({json.dumps(line["recipe"], sort_keys=True) for line in starts}) > 1:
        raise ValueError(f"{path} has several runs with {dict(files.where)}; wanted lines of one")
    recipe = Recipe.from_json(starts[0]["recipe"])
    tested = [line for line in lines if line["kind"] == "epoch" and "top1" in line]
    if not tested or tested[-1]["epoch"] < recipe.total_epochs:
        last = tested[-1]["epoch"] if tested else 0
        raise ValueError(f"the run in {path} was tested up to epoch {last}; wanted {recipe.total_epochs}: not complete")
    top1 = [_top1(line) for line in tested]
    figures = {"top1": top1[-1], "best_top1": _best(tested), "top5": tested[-1].get("ema_top5", tested[-1]["top5"])}
    images = int(tested[-1]["images"])
    if files.trace is not None:
        trace = _read_trace(folder / files.trace, recipe.model, images)
        if trace.firing_rates():
            figures["sparsity"] = round(sparsity(trace), 4)
    if files.energy is not None:
        figures["energy"] = _read_energy(folder / files.energy, recipe.model)
    return LoggedRun(
        recipe=recipe,
        figures=figures,
        images=images,
        minutes=round(_seconds(lines) / 60, 1),
        date=datetime.fromtimestamp(lines[0]["time"], UTC).isoformat(timespec="seconds"),
        device=starts[0]["device"],
        torch=starts[0]["torch"],
        threads=starts[0]["threads"],
    )


def _top1(line: dict[str, Any]) -> float:
    """Of averaged weights where there are both, and with ties counted wrong where the log says so."""
    names = ("ema_untied_top1", "ema_top1", "untied_top1", "top1")
    return next(line[name] for name in names if name in line)


def _best(tested: list[dict[str, Any]]) -> float:
    """Top-1 of the test images in the best epoch: the first that held-out images choose, or where there are none the
    test images themselves."""
    if "val_top1" not in tested[0]:
        return max(map(_top1, tested))
    score = "val_ema_top1" if "val_ema_top1" in tested[0] else "val_top1"
    return _top1(max(tested, key=lambda line: line[score]))


def _read_trace(path: Path, model: str, images: int) -> Trace:
    """The trace of a model on all test images. FileNotFoundError without it, ValueError for another one."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no trace {path}")
    trace = Trace.from_json(path.read_text(encoding="utf-8"))
    if (trace.model, trace.samples) != (model, images):
        raise ValueError(f"{path} is of {trace.model} on {trace.samples} images; wanted {model} on all {images}")
    return trace


def _read_energy(path: Path, model: str) -> float:
    """mJ an image. FileNotFoundError without the file, ValueError for another model and for rates that were given."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no energy {path}")
    report = json.loads(path.read_text(encoding="utf-8"))
    if report["model"] != model or report["rates"] is not None:
        raise ValueError(f"{path} is of {report['model']} at rates {report['rates']}; wanted {model} at measured ones")
    return report["totals"]["millijoules"]


def _seconds(lines: list[dict[str, Any]]) -> float:
    """Time between lines, without pauses in front of a line that resumes."""
    return sum(after["time"] - before["time"] for before, after in pairwise(lines) if after["kind"] != "resume")
