"""Training on a folder with corrupt images in it."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from torch import nn

from spimm.data import Augment
from spimm.train import Recipe, TrainResult, read_log, train

SIZE = 8


class ColourNet(nn.Sequential):
    """A linear classifier of colour images."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 2))


@pytest.fixture
def photos(tmp_path: Path, recipe: Recipe) -> Recipe:
    """A recipe for 12 training and 6 test images of two classes."""
    root = tmp_path / "photos"
    for part, count in (("train", 6), ("val", 3)):
        for label, name in enumerate("ab"):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                grey = np.full((SIZE, SIZE, 3), 120 * label + 10 * index, dtype=np.uint8)
                Image.fromarray(grey).save(root / part / name / f"{index}.png")
    settings = {"augment": Augment(), "batch_size": 4, "model": "colours", "image_size": SIZE}
    return replace(recipe, data=f"folder:{root}", **settings)


def spoil(recipe: Recipe, name: str) -> Path:
    path = Path(recipe.data.removeprefix("folder:")) / name
    path.write_bytes(path.read_bytes()[:40])
    return path


def run(recipe: Recipe, out: Path) -> tuple[TrainResult, str]:
    shown = StringIO()
    return train(recipe, out, model=ColourNet(), console=Console(file=shown, width=1000)), shown.getvalue()


def test_corrupt_files_are_counted_and_named_once_in_log_and_terminal(photos: Recipe, tmp_path: Path) -> None:
    names = [str(spoil(photos, name)) for name in ("train/a/3.png", "train/b/5.png", "val/b/0.png")]
    result, shown = run(replace(photos, corrupt="skip"), tmp_path / "run")
    assert result.completed and result.step == 9
    assert result.metrics["images"] == 5
    records = [record for record in read_log(tmp_path / "run" / "log.jsonl") if record["kind"] == "corrupt"]
    assert [(record["step"], record["count"], record["first"]) for record in records] == [(3, 3, names)]
    assert shown.count(f"3 corrupt images or recordings are left out, such as {', '.join(names)}") == 1


def test_a_run_that_a_corrupt_file_ended_goes_on_without_it(photos: Recipe, tmp_path: Path) -> None:
    spoiled = spoil(photos, "val/a/1.png")
    with pytest.raises(ValueError, match=rf"{spoiled} cannot be decoded as an image: .*corrupt=skip"):
        run(photos, tmp_path / "run")
    result, _ = run(replace(photos, corrupt="skip"), tmp_path / "run")
    assert result.metrics["images"] == 5


def test_a_test_batch_of_corrupt_files_alone_is_left_out(photos: Recipe, tmp_path: Path) -> None:
    for name in ("val/b/1.png", "val/b/2.png"):  # the second batch of four and two
        spoil(photos, name)
    assert run(replace(photos, corrupt="skip"), tmp_path / "run")[0].metrics["images"] == 4


def test_sound_files_give_the_same_run_under_either_policy(photos: Recipe, tmp_path: Path) -> None:
    refused, skipped = (run(replace(photos, corrupt=name), tmp_path / name)[0] for name in ("refuse", "skip"))
    assert refused.metrics == skipped.metrics
