"""Runs as training leaves them, without the training."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from spimm.train import Recipe, load_recipe

Finish = Callable[..., Path]


def lines_of(recipe: Recipe, top1: list[float], *, images: int = 10_000) -> list[dict[str, object]]:
    """A log of an evaluation an epoch, a minute apart; the last of `top1` is that of the last epoch."""
    start = {"kind": "start", "step": 0, "device": "cpu", "torch": "2.9", "threads": 1, "recipe": recipe.to_json()}
    first = recipe.total_epochs - len(top1) + 1
    epochs = [
        {"kind": "epoch", "step": 10 * epoch, "epoch": epoch, "top1": value, "top5": 99.0, "images": images}
        for epoch, value in enumerate(top1, start=first)
    ]
    return [{**line, "time": 60.0 * number} for number, line in enumerate([start, *epochs])]


def write_log(path: Path, lines: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def finish(tmp_path: Path) -> Finish:
    """Makes the folder of a finished run of a recipe: `finish(name, recipe, accuracies, **settings)`."""

    def make(name: str, recipe: str, top1: list[float], *, images: int = 10_000, **settings: object) -> Path:
        whole = replace(load_recipe(recipe), **settings)  # type: ignore[arg-type]
        folder = tmp_path / "runs" / name
        write_log(folder / "log.jsonl", lines_of(whole, top1, images=images))
        (folder / "recipe.json").write_text(json.dumps(whole.to_json()))
        (folder / "data.json").write_text("{}")
        return folder

    return make
