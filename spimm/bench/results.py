"""The record of a case: what was measured, on what, how; as JSON, as CSV and, of a sweep, as a picture."""

import csv
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spimm.bench.curves import Curve, draw, save
from spimm.bench.environment import slug
from spimm.bench.rates import Rate
from spimm.bench.registry import Ratio
from spimm.bench.timing import Summary
from spimm.files import write_text

COLUMNS = (
    "case", "quick", "hardware", "threads", "date", "kind", "name", "unit",
    "median", "min", "q1", "q3", "max", "samples", "goal", "met",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Ratios of the rounds of two sides. `goal` is None in a quick run, whose numbers mean nothing."""

    slower: str
    faster: str
    goal: float | None
    ratio: Summary

    @classmethod
    def of(cls, ratio: Ratio, summary: Summary, *, quick: bool) -> "Comparison":
        return cls(ratio.slower, ratio.faster, None if quick else ratio.goal, summary)

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the goal; None without one."""
        return None if self.goal is None else self.ratio.median >= self.goal


@dataclass(frozen=True)
class Record:
    """Everything that is written of a case."""

    case: str
    about: str
    quick: bool
    unit: str
    setting: dict[str, Any]
    checks: dict[str, float]
    """Differences between the sides, found before measuring."""
    sides: dict[str, Summary]
    comparisons: list[Comparison]
    rates: list[Rate]
    curves: list[Curve]
    hardware: dict[str, Any]
    versions: dict[str, str | None]
    threads: int
    warmup: int
    repeats: int
    date: str
    """Start, ISO 8601, UTC."""
    command: str
    load_average: float | None
    """Runnable processes in the minute before the measurement."""

    @property
    def stem(self) -> str:
        """Name of the files without ending: case, hardware, day."""
        return f"{self.case}{'-quick' if self.quick else ''}_{slug(self.hardware)}_{self.date[:10]}"

    def to_json(self) -> str:
        whole = asdict(self)
        for entry, comparison in zip(whole["comparisons"], self.comparisons, strict=True):
            entry["met"] = comparison.met
        return json.dumps(whole, indent=1) + "\n"

    def to_csv(self) -> str:
        """One line for each side, comparison, rate (median per second, then share of the limit) and curve."""
        common = (self.case, self.quick, slug(self.hardware), self.threads, self.date)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name, summary in self.sides.items():
            writer.writerow([*common, "side", name, self.unit, *_numbers(summary), "", ""])
        for item in self.comparisons:
            name = f"{item.slower} / {item.faster}"
            goal = ["", ""] if item.goal is None else [item.goal, item.met]
            writer.writerow([*common, "ratio", name, "x", *_numbers(item.ratio), *goal])
        for rate in self.rates:
            row = (round(rate.per_second), *_blank(4), len(rate.share.samples), *_blank(2))
            writer.writerow([*common, "rate", rate.side, f"{rate.unit}/s", *row])
            writer.writerow([*common, "share", f"{rate.side} of {rate.limit}", "", *_numbers(rate.share), *_blank(2)])
        for curve in self.curves:
            row = (round(curve.slope, 4), *_blank(3), round(curve.steepest, 4), len(curve.x))
            writer.writerow([*common, "slope", f"{curve.name} against {curve.label}", "", *row, *_blank(2)])
        return text.getvalue()


def _numbers(summary: Summary) -> list[float | int]:
    values = (summary.median, summary.min, summary.q1, summary.q3, summary.max)
    return [*(round(value, 4) for value in values), len(summary.samples)]


def _blank(count: int) -> list[str]:
    return [""] * count


def write(record: Record, folder: Path) -> list[Path]:
    """Writes `<case>_<hardware>_<day>.json`, `.csv` and, of a sweep, `.png`, each whole or not at all.

    Replaces those of the same day.
    """
    texts = {"json": record.to_json(), "csv": record.to_csv()}
    paths = [write_text(folder / f"{record.stem}.{ending}", text) for ending, text in texts.items()]
    if record.curves:
        figure = draw(record.curves, title=f"{record.case}: {record.about}", unit=record.unit)
        paths.append(save(figure, folder / f"{record.stem}.png"))
    return paths
