"""Own images from the command line: classes by name, folders without a split, runs evaluated from elsewhere."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spimm.cli.main import main
from spimm.cli.subject import SubjectOptions
from spimm.data import known_classes
from spimm.train import read_log

TINY = ("image_size=8", "epochs=2", "batch_size=8", "model_options.num_steps=1", "tensorboard=false")


def write(root: Path, names: tuple[str, ...], parts: tuple[str, ...] = ("train", "val")) -> None:
    """Images of a level for each name, dark ones for the first; the same images whatever the names."""
    for part in parts:
        for place, name in enumerate(names):
            random = np.random.default_rng([len(part), place])
            (root / part / name).mkdir(parents=True)
            for index in range(12):
                pixels = random.normal(40 + 150 * place, 12, (8, 8, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.png")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folder with a run on `one`; in `two` its images have other names, in `few` fewer, in `more` one more."""
    folder = tmp_path_factory.mktemp("data")
    write(folder / "one", ("cat", "dog"))
    write(folder / "two", ("zebra", "ape"))
    write(folder / "more", ("cat", "dog", "elk"))
    write(folder / "flat", ("cat", "dog"), parts=(".",))
    for part in ("train", "val"):
        shutil.copytree(folder / "one" / part / "dog", folder / "few" / part / "dog")
    command = ["train", "digits", "data=folder:one", *TINY, "warmup_epochs=0", "--data-dir", str(folder)]
    assert main([*command, "--out", str(folder / "run")]) == 0
    return folder


def evaluated(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    capsys.readouterr()
    assert main(["eval", *arguments, "--as-json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_is_evaluated_from_any_folder(root, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.delenv("SPIMM_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    metrics = evaluated([str(root / "run")], capsys)
    assert metrics["images"] == 24 and metrics["data"] == "folder:one"
    assert json.loads((root / "run" / "place.json").read_text()) == {"data": f"folder:{root / 'one'}", "data_dir": None}
    assert str(root) not in (root / "run" / "data.json").read_text() + (root / "run" / "recipe.json").read_text()
    assert main(["train", "digits", "data=folder:one", *TINY, "warmup_epochs=0", "--out", str(root / "run")]) == 0
    assert evaluated([str(root / "run"), "--data-dir", str(root)], capsys) == metrics


def test_a_run_is_evaluated_in_the_precision_of_its_training(root, tmp_path, capsys) -> None:
    command = ["train", "digits", "data=folder:one", *TINY, "warmup_epochs=0", "precision=bf16"]
    assert main([*command, "--data-dir", str(root), "--out", str(tmp_path)]) == 0
    *_, logged = (record for record in read_log(tmp_path / "log.jsonl") if record["kind"] == "epoch")
    found = evaluated([str(tmp_path), "--data-dir", str(root)], capsys)
    assert found["loss"] == pytest.approx(logged["loss"], rel=1e-6) and found["top1"] == logged["top1"]
    other = evaluated([str(tmp_path), "--data-dir", str(root), "--precision", "fp32"], capsys)
    assert other["loss"] != found["loss"]


def test_the_data_folder_of_a_run_is_kept_as_well(root, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(root)
    command = ["train", "digits", "data=imagefolder", *TINY, "warmup_epochs=0", "--data-dir", "one"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPIMM_DATA", raising=False)
    assert evaluated(["run"], capsys)["images"] == 24


@pytest.mark.parametrize("name", ["two", "more"])
def test_classes_that_the_run_does_not_know_are_refused(root, name, capsys) -> None:
    assert main(["eval", str(root / "run"), "--data", f"folder:{name}", "--data-dir", str(root)]) == 2
    error = capsys.readouterr().err
    unknown = {"two": "ape, zebra", "more": "elk"}[name]
    assert f"classes that the model was not trained on: {unknown}; it knows cat, dog" in error
    assert len(error.strip().splitlines()) <= 3
    assert main(["analyze", str(root / "run"), "--data", f"folder:{name}", "--data-dir", str(root)]) == 0


def test_fewer_classes_are_evaluated_by_name(root, capsys) -> None:
    whole = evaluated([str(root / "run"), "--data-dir", str(root)], capsys)
    few = SubjectOptions(run=root / "run", data="folder:few", data_dir=root).load(8).matched()
    assert few.data.class_names == ("cat", "dog") and set(few.data.test.labels.tolist()) == {1}
    dogs = evaluated([str(root / "run"), "--data", "folder:few", "--data-dir", str(root)], capsys)
    assert dogs["images"] == 12
    assert 0 <= whole["top1"] - dogs["top1"] / 2 <= 50  # cats have the rest


def test_the_top_5_of_two_classes_is_not_printed(root, capsys) -> None:
    assert main(["eval", str(root / "run"), "--data-dir", str(root)]) == 0
    assert "top-1" in (out := capsys.readouterr().out) and "top-5" not in out


def test_weights_that_ship_are_evaluated_by_the_names_of_their_data(root) -> None:
    assert known_classes("mnist") == known_classes("digits-dvs") == tuple("0123456789")
    assert known_classes("fashion-mnist")[0] == "T-shirt/top" and known_classes("cifar10") is None
    loaded = SubjectOptions(run=root / "run", data_dir=root).load(8)
    with pytest.raises(ValueError, match="not trained on: cat, dog; it knows T-shirt/top"):
        replace(loaded, class_names=known_classes("fashion-mnist")).matched()


def test_a_folder_without_a_split_is_trained_on_by_command(root, tmp_path, caplog, capsys) -> None:
    command = ["train", "digits", "data=folder:flat", "val_share=0.25", *TINY, "warmup_epochs=0", "log_every=1"]
    place = ["--data-dir", str(root)]
    assert main([*command, *place, "--dry-run"]) == 0
    assert "18 for training and 6 for tests" in capsys.readouterr().out
    with caplog.at_level(logging.WARNING):
        assert main([*command, *place, "--out", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["val_share"] == 0.25
    facts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert facts["images"] == {"train": 18, "test": 6} and "val_share=0.25, split_seed=0" in facts["note"]
    assert evaluated([str(tmp_path / "run"), *place], capsys)["images"] == 6


def test_a_missing_set_is_fetched_by_command(tmp_path, monkeypatch, capsys) -> None:
    import torchvision

    fetched = []

    def stored(where, train, download):
        fetched.append((where, download))
        if not download:
            raise RuntimeError("Dataset not found.")
        raise RuntimeError("Error downloading:\nno route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", stored)
    named = ["data=cifar10", "--data-dir", str(tmp_path / "new")]
    assert main(["train", "digits", *named]) == 2
    assert "data folder" in capsys.readouterr().err
    assert main(["train", "digits", *named, "--download"]) == 2
    assert "cifar10 could not be fetched into" in capsys.readouterr().err
    assert fetched == [(tmp_path / "new", True)]
    assert main(["eval", "--model", "qkformer_3_64_digits", "--data", "cifar10", *named[1:], "--download"]) == 2
    assert len(fetched) == 2
    capsys.readouterr()
    assert main(["train", "digits", *named, "--download", "--dry-run"]) == 2
    assert "--dry-run fetches nothing" in capsys.readouterr().err
