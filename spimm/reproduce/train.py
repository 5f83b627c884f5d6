"""A row from its recipe to a run with its record."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spimm.files import write_text
from spimm.reproduce.collect import record_runs
from spimm.reproduce.match import check_stands_for
from spimm.reproduce.rows import Row, Setup
from spimm.train import Recipe, TrainResult, apply_overrides, train

RECORD = "record.json"


def setup_of(row: Row, *, scaled: bool) -> Setup:
    """The row's recipe, or that on small data. ValueError, saying what is missing, where there is none."""
    setup = row.scaled if scaled else row.full
    if setup is None:
        other = row.full if scaled else row.scaled
        hint = "" if other is None else f"; there is one {'without' if scaled else 'with'} --scaled"
        raise ValueError(f"{row.id} has no recipe{' for small data' if scaled else f': {row.needs}'}{hint}")
    return setup


def prepare(row: Row, changes: Sequence[str] = (), *, scaled: bool = False) -> Recipe:
    """The recipe of a row with changes. ValueError where the run would not stand for the row any more."""
    recipe = apply_overrides(setup_of(row, scaled=scaled).resolve(), changes)
    check_stands_for(row, recipe)
    return recipe


def reproduce(row: Row, recipe: Recipe, out: Path, **options: Any) -> TrainResult:
    """Trains a prepared recipe into `out`, as `train` does with the same options, and writes its record there.

    Of the processes of torchrun the first one writes it.
    """
    result = train(recipe, out, **options)
    if result.completed and os.environ.get("RANK", "0") == "0":
        write_text(out / RECORD, record_runs([out], [row.id], name=out.name).to_json())
    return result
