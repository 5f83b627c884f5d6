"""Recipes as a user finds, plans and runs them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spimm.cli.main import main
from spimm.train import list_recipes, load_run, read_log

SMALL = ("model=metaspikeformer_64", "image_size=64", "epochs=1", "warmup_epochs=0", "batch_size=4", "num_workers=0")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of six noisy pictures of different shapes for training and two for tests."""
    random = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 2)):
        for level, name in ((60, "dark"), (180, "light")):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = random.normal(level, 30, (70 + 4 * index, 90, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "pictures"


def test_recipes_are_listed_with_what_they_should_reach(capsys):
    assert main(["recipes", "qkformer_imagenet*"]) == 0
    out = capsys.readouterr().out
    for text in (
        "qkformer_imagenet_10_768_384px",
        "qkformer_10_512",
        "imagefolder",
        "published 84.22 %",
        "Zhou et al.",
    ):
        assert text in out
    assert "spikeatconv" not in out


def test_recipes_are_printed_as_json(capsys):
    assert main(["recipes", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list_recipes()
    assert {"name", "model", "data", "epochs", "expected", "cost", "source"} == set(rows[0])
    digits = next(row for row in rows if row["name"] == "digits")
    assert (digits["model"], digits["epochs"], digits["source"]) == ("qkformer_3_64_digits", 15, "ours")


def test_a_pattern_without_a_recipe_is_answered_with_the_nearest(capsys):
    assert main(["recipes", "qkformer_imagnet*"]) == 2
    error = capsys.readouterr().err
    assert "no recipe matches 'qkformer_imagnet*'; nearest: qkformer_imagenet" in error


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", "epochs=3", "device=cpu", "--dry-run", "--probe", "8", "--processes", "4"]) == 0
    out = capsys.readouterr().out
    for text in ("140,162 parameters", "132: 3 epochs of 44", "4,224 in training", "8 on each of 4", "images/s", "GiB"):
        assert text in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--probe", "--processes"])
def test_options_of_a_dry_run_without_one_are_refused(option, capsys):
    assert main(["train", "digits", option, "2"]) == 2
    assert "processes and probe are for --dry-run" in capsys.readouterr().err


def test_a_published_recipe_trains_on_a_folder_of_pictures_and_is_evaluated_at_another_size(pictures, tmp_path, capsys):
    run = tmp_path / "run"
    folder, augment = f"data=folder:{pictures}", "augment.erase=1"
    assert main(["train", "metaspikeformer_imagenet", folder, augment, *SMALL, "device=cpu", "--out", str(run)]) == 0
    recipe, _ = load_run(run)
    assert (recipe.augment.rand_augment, recipe.interpolation) == ("rand-m9-mstd0.5-inc1", "bicubic")
    (epoch,) = [record for record in read_log(run / "log.jsonl") if record["kind"] == "epoch"]
    assert epoch["step"] == 3 and np.isfinite(epoch["train_loss"])
    capsys.readouterr()
    assert main(["eval", str(run), "--image-size", "96", "--crop-fraction", "1", "--as-json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 4
