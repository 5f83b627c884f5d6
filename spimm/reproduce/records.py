"""The record of a result: which rows it stands for, by which runs, how they were made. Believed only with its logs."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from spimm.files import write_text
from spimm.reproduce.logs import LoggedRun, RunFiles, read_run
from spimm.reproduce.match import check_alike, check_stands_for
from spimm.reproduce.published import list_rows
from spimm.reproduce.rows import find_row
from spimm.train import Recipe

FOLDER = "records"


@dataclass(frozen=True)
class Entry:
    """One run of a record and what its log says."""

    files: RunFiles
    seed: int
    fold: int | None
    figures: dict[str, float]
    minutes: float
    date: str


@dataclass(frozen=True)
class Record:
    """A result: one run, or several that differ in seed or fold alone. Files are relative to the folder of results."""

    name: str
    rows: tuple[str, ...]
    """Ids of the published rows it stands for; none for a result that no paper has."""
    command: str
    entries: tuple[Entry, ...]
    commit: str
    """Of the code, or the one that added the log."""
    hardware: str
    versions: dict[str, str]

    def to_json(self) -> str:
        values = asdict(self)
        del values["name"]
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, name: str, text: str) -> "Record":
        values = json.loads(text)
        entries = tuple(Entry(**{**entry, "files": RunFiles(**entry["files"])}) for entry in values.pop("entries"))
        return cls(**{**values, "name": name, "rows": tuple(values["rows"]), "entries": entries})


@dataclass(frozen=True)
class Result:
    """A record whose logs were read and say the same."""

    record: Record
    recipe: Recipe
    """Of the first run."""
    images: int
    minutes: float
    """Of a run, on average."""
    figures: dict[str, float]
    """Mean over the runs."""

    def each(self, metric: str) -> list[float]:
        """The figure of each run."""
        return [entry.figures[metric] for entry in self.record.entries]


def verify(record: Record, results: Path) -> Result:
    """The result of a record, its figures read again from the logs in `results`.

    Raises FileNotFoundError for a missing file, and ValueError where the record disagrees with its logs or stands for a
    row whose setup is not that of its runs.
    """
    if not record.entries:
        raise ValueError(f"record {record.name} names no run")
    runs = [_check(record.name, entry, results) for entry in record.entries]
    check_alike([run.recipe for run in runs])
    for row in record.rows:
        check_stands_for(find_row(list_rows(), row), runs[0].recipe)
    shared = set.intersection(*(set(run.figures) for run in runs))
    figures = {metric: mean(run.figures[metric] for run in runs) for metric in runs[0].figures if metric in shared}
    return Result(record, runs[0].recipe, runs[0].images, mean(run.minutes for run in runs), figures)


def _check(name: str, entry: Entry, results: Path) -> LoggedRun:
    run = read_run(results, entry.files)
    if entry.figures != run.figures:
        raise ValueError(f"record {name} has {entry.figures}; {entry.files.log} says {run.figures}")
    if (entry.seed, entry.fold) != (run.recipe.seed, run.recipe.fold):
        raise ValueError(
            f"record {name} has seed {entry.seed} and fold {entry.fold}; {entry.files.log} says {run.recipe.seed} and "
            f"{run.recipe.fold}"
        )
    return run


def load_results(results: Path) -> list[Result]:
    """All records in `results`/records, verified, by name."""
    paths = sorted((results / FOLDER).glob("*.json"))
    return [verify(Record.from_json(path.stem, path.read_text(encoding="utf-8")), results) for path in paths]


def save(record: Record, results: Path) -> Path:
    """Writes `results`/records/NAME.json once its logs are found to say the same. Returns the path."""
    verify(record, results)
    return write_text(results / FOLDER / f"{record.name}.json", record.to_json())


def of_row(results: Iterable[Result], row: str) -> list[Result]:
    """The results that stand for a row."""
    return [result for result in results if row in result.record.rows]


def entry(results: Path, files: RunFiles) -> tuple[Entry, LoggedRun]:
    """What a record holds of a run, from its files."""
    run = read_run(results, files)
    made: dict[str, Any] = {"figures": run.figures, "minutes": run.minutes, "date": run.date}
    return Entry(files, run.recipe.seed, run.recipe.fold, **made), run
