"""The commands as a user runs them, on a model trained for one short epoch."""

import json
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from spimm import weights
from spimm.analyze import Trace, sparsity
from spimm.cli.main import main
from spimm.cli.subject import SubjectOptions
from spimm.models import pretrained
from spimm.train import load_run

SHORT = ("epochs=1", "warmup_epochs=0", "batch_size=256", "tensorboard=false")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "digits", *SHORT, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def event_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 3 frames of 20 recordings in 4 folds, in the folder that also holds the recordings."""
    folder, random, arrays = tmp_path_factory.mktemp("events"), np.random.default_rng(0), {}
    for part, count in (("train", 15), ("test", 5)):
        for key, values in (("x", 34), ("y", 34), ("p", 2)):
            arrays[f"{part}_{key}"] = random.integers(0, values, 50 * count)
        arrays[f"{part}_t"] = np.tile(np.arange(50), count)
        arrays[f"{part}_offsets"] = np.arange(count + 1) * 50
        arrays[f"{part}_labels"] = np.arange(count) % 10
    np.savez(folder / "nmnist_small.npz", **arrays, sensor_hw=np.array([34, 34]))
    settings = ["epochs=1", "warmup_epochs=0", "batch_size=4", "tensorboard=false", "frames=3", "fold=1", "folds=4"]
    assert main(["train", "nmnist", *settings, "--data-dir", str(folder), "--out", str(folder / "run")]) == 0
    return folder / "run"


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    return capsys.readouterr().err


def test_models_lists_names_that_match(capsys):
    assert main(["models", "qkformer_10_*"]) == 0
    out = capsys.readouterr().out
    assert "16,473,688" in out and "64,962,760" in out and "6,706,234" not in out


def test_models_without_a_match_is_an_error_that_names_some_and_the_command_that_lists_all(capsys):
    assert "more: spimm models" in error_of(["models", "nothing*"], capsys)
    assert "qkformer_10_384" in error_of(["models", "qkformer_10_38"], capsys)


def test_info_names_versions_and_backends(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "torch" in out and "reference" in out and "compiled kernels" in out


def test_a_trained_run_is_evaluated(run, capsys):
    assert main(["eval", str(run), "--as-json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["images"] == 360 and 0 <= metrics["top1"] <= 100


def test_the_energy_of_a_run_is_counted_by_another_formula_and_at_a_given_rate(run, tmp_path, capsys):
    options = ["--formula", "metaspikeformer", "--rate", "0.25", "--purity", "--out", str(tmp_path)]
    assert main(["analyze", str(run), "--images", "20", *options]) == 0
    out = capsys.readouterr().out
    assert "inputs of matrix products" in out and "a given rate of 0.25" in out
    report = json.loads((tmp_path / "energy_given.json").read_text())
    assert report["formula"] == "metaspikeformer"
    assert {line["rate"] for line in report["lines"] if line["group"] != "input"} == {0.25}


def test_a_run_is_put_on_a_chip_and_its_trace_again_on_another(run, tmp_path, capsys):
    options = ["--mesh", "6x6", "--placement", "snake", "--hop-pj", "50", "--out", str(tmp_path)]
    assert main(["simulate", str(run), "--images", "20", *options]) == 0
    assert "on 6x6 cores, 20 samples" in capsys.readouterr().out
    first = json.loads((tmp_path / "simulation.json").read_text())
    assert first["spikes"] > 0 and first["energy_costs"]["hop_pj"] == 50
    assert (tmp_path / "mesh.png").read_bytes().startswith(b"\x89PNG")
    options = ["--delivery", "unicast", "--neurons-per-core", "256", "--count-input", "--out", str(tmp_path / "again")]
    assert main(["simulate", "--trace", str(tmp_path / "trace.json"), *options]) == 0
    capsys.readouterr()
    again = json.loads((tmp_path / "again" / "simulation.json").read_text())
    assert again["layers"][0]["layer"] == "input"
    assert again["spikes"] == pytest.approx(first["spikes"] + again["layers"][0]["spikes"])
    assert len(again["cores"]) > len(first["cores"])


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("per", ["layer", "channel"])
def test_a_trained_run_is_evaluated_with_few_bits(run, per, fold, capsys):
    convs = [
        part
        for part in SubjectOptions(run=run, bits=2, per=per, fold=fold).load(5).model.modules()
        if isinstance(part, nn.Conv2d)
    ]
    assert convs and all(row.unique().numel() <= 3 for conv in convs for row in conv.weight)
    assert any(conv.weight.unique().numel() > 3 for conv in convs) == (per == "channel")
    options = ["--bits", "4", "--per", per, *["--fold"] * fold]
    assert main(["eval", str(run), *options]) == 0
    assert f"weights of 4 bits per {per}: " in capsys.readouterr().out
    assert main(["eval", str(run), *options, "--as-json"]) == 0
    sizes = json.loads(capsys.readouterr().out)["bytes"]
    assert 0 < sizes["after"] < sizes["before"] / 3


def test_the_energy_of_a_run_with_few_bits_is_counted(run, tmp_path, capsys):
    rates = []
    for name, options in (("floats", []), ("bits", ["--bits", "2"])):
        assert main(["analyze", str(run), "--images", "20", "--out", str(tmp_path / name), *options]) == 0
        rates.append(Trace.from_json((tmp_path / name / "trace.json").read_text()).firing_rates())
    capsys.readouterr()
    assert rates[0].keys() == rates[1].keys() and rates[0] != rates[1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_trained_run_is_evaluated_folded(run, precision, capsys):
    found = []
    for options in (["--fold"], []):
        assert main(["eval", str(run), "--precision", precision, "--as-json", *options]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["images"] == 360 and found[0]["top1"] == pytest.approx(found[1]["top1"], abs=2)


@pytest.mark.parametrize(("merge", "dense"), [("dense", True), ("split", False)])
def test_rows_of_convolutions_are_merged_as_asked_and_both_costs_shown(merge, dense, tmp_path, capsys):
    named = ["--model", "metaspikeformer_mnist", "--images", "2", "--out", str(tmp_path)]
    assert main(["analyze", *named, "--fold", "--merge", merge]) == 0
    assert "one dense convolution, or split" in capsys.readouterr().out
    layers = {layer["name"] for layer in json.loads((tmp_path / "trace.json").read_text())["layers"]}
    assert ("stages.0.blocks.0.sep_conv.branch.mix.conv" in layers) == dense
    assert ("stages.0.blocks.0.sep_conv.branch.mix.conv.1" in layers) != dense


def test_the_sparsity_of_neurons_that_fire_once_is_printed(tmp_path, capsys):
    assert main(["analyze", "--model", "ttfs_mnist_cnn", "--images", "2", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    trace = Trace.from_json((tmp_path / "trace.json").read_text())
    assert f"sparsity S/N {sparsity(trace):.4f}" in out


def test_a_trained_run_is_analyzed_into_a_folder(run, tmp_path, capsys):
    assert main(["analyze", str(run), "--images", "20", "--out", str(tmp_path / "report")]) == 0
    assert "energy per sample" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"trace.json", "energy.json", "energy_integers.json", "analysis.png"}


@pytest.mark.parametrize("steps", [3, 2])
def test_a_run_on_events_is_evaluated_in_its_fold_with_its_frames_or_others(event_run, steps, capsys):
    options = [] if steps == 3 else ["--num-steps", str(steps)]
    arguments = [str(event_run), "--data-dir", str(event_run.parent), *options]
    assert main(["eval", *arguments, "--as-json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 5
    loaded = SubjectOptions(run=event_run, data_dir=event_run.parent, num_steps=None if steps == 3 else steps).load(5)
    assert (loaded.data.frames, loaded.recipe.frames, loaded.recipe.fold) == (steps, steps, 1)
    assert main(["analyze", *arguments, "--images", "4"]) == 0
    assert f"{steps} steps, 4 samples" in capsys.readouterr().out


def test_a_named_model_is_evaluated_on_events(event_run, capsys):
    data = ["--data", "events:nmnist_small.npz", "--data-dir", str(event_run.parent)]
    assert main(["eval", "--model", "metaspikeformer_nmnist", *data, "--as-json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 5


@pytest.fixture
def shipped(run, tmp_path, monkeypatch) -> str:
    """Name of the run's model, whose weights ship with the package."""
    recipe, model = load_run(run)
    facts = {"data": "digits", "top1": 12.34, "recipe": recipe.name, "seed": recipe.seed}
    pretrained.ship(model, recipe.model, tmp_path, **facts)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    return recipe.model


def test_a_named_model_is_evaluated_on_events_that_have_a_name(capsys):
    assert main(["eval", "--model", "qkformer_2_128_nmnist", "--data", "digits-dvs", "--num-steps", "1"]) == 0
    assert "360 test images" in capsys.readouterr().out


def test_shipped_weights_are_evaluated_and_analyzed_on_their_data(run, shipped, tmp_path, capsys):
    assert main(["eval", str(run), "--as-json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert main(["eval", "--model", shipped, "--pretrained", "--as-json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected
    assert main(["analyze", "--model", shipped, "--pretrained", "--images", "4"]) == 0
    assert "4 samples" in capsys.readouterr().out


def test_models_shows_whose_weights_ship(shipped, capsys):
    assert main(["models", "qkformer_3_*"]) == 0
    assert "12.34 % digits" in capsys.readouterr().out


def test_shipped_weights_stand_alone(run, shipped, tmp_path, capsys):
    assert "--pretrained and --weights are for --model" in error_of(["eval", str(run), "--pretrained"], capsys)
    assert "are for --model" in error_of(["eval", str(run), "--weights", "w.safetensors"], capsys)
    both = ["eval", "--model", shipped, "--pretrained", "--weights", "w.safetensors"]
    assert "--weights w.safetensors" in error_of(both, capsys)
    assert "no weights ship for 'qkformer_10_384', only for: " + shipped in error_of(
        ["eval", "--model", "qkformer_10_384", "--pretrained"], capsys
    )


@pytest.mark.parametrize("command", [["eval"], ["analyze", "--images", "2"], ["simulate", "--images", "2"]])
def test_random_weights_are_named(command, capsys, caplog):
    weights._say.cache_clear()
    assert main([*command, "--model", "qkformer_3_64_digits", "--num-steps", "1"]) == 0
    (said,) = [record.getMessage() for record in caplog.records if record.name == "spimm.weights"]
    assert said.startswith("qkformer_3_64_digits has random weights, neither loaded nor trained") and "\n" not in said
    assert "--pretrained, --weights FILE" in said


def test_a_named_model_is_evaluated_without_a_run(capsys):
    assert main(["eval", "--model", "qkformer_3_64_digits", "--num-steps", "1", "--as-json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "qkformer_3_64_digits"


def test_a_model_is_evaluated_with_other_options(run, capsys):
    named = ["eval", "--model", "qkformer_3_64_digits", "--as-json", "--options"]
    assert main([*named, "attention=qkta,ssa,ssa", "num_steps=1"]) == 0
    assert "wanted at least 1" in error_of([*named, "num_steps=0"], capsys)
    assert main(["eval", str(run), "--as-json", "--options", "tau=3.5"]) == 0
    assert "does not fit" in error_of(["eval", str(run), "--options", "embed_dim=32", "tau=3.5"], capsys)


def test_quickstart_trains_measures_and_draws(tmp_path, capsys):
    assert main(["quickstart", *SHORT, "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "test accuracy" in out and "energy" in out and "firing rate" in out
    assert (tmp_path / "quickstart.png").stat().st_size > 10_000


def test_train_shows_a_recipe_with_its_changes(capsys):
    assert main(["train", "digits", "epochs=3", "--show"]) == 0
    out = capsys.readouterr().out
    assert "epochs=3" in out and "Command: spimm train digits" in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "digit"], "digits"),
        (["train", "digits", "epoch=3"], "epochs"),
        (["train", "digits", "model_options.neuron=lief"], "lif"),
        (["train", "digits", "model=qkformer_3_64_digit"], "qkformer_3_64_digits"),
        (["train", "digits", "data=npz:/no/such/file.npz"], "/no/such/file.npz"),
        (["eval"], "--model"),
        (["eval", "/no/such/run"], "/no/such/run"),
        (["eval", "--model", "qkformer_3_64_digits", "--weights", "/no/such.safetensors"], "/no/such.safetensors"),
        (["analyze", "--model", "qkformer_3_64_digits", "--images", "0"], "images is 0"),
        (["analyze", "--model", "qkformer_3_64_digits", "--formula", "excel"], "metaspikeformer"),
        (["analyze", "--model", "qkformer_3_64_digits", "--rate", "-1"], "rate is -1"),
        (["eval", "--model", "qkformer_3_64_digits", "--bits", "1"], "bits is 1; wanted 2 to 8"),
        (["train", "digits", "weight_bits=9"], "weight_bits must be None or 2 to 8, got 9"),
        (["bench", "norm_liff"], "norm_lif"),
        (["simulate", "--model", "qkformer_3_64_digits", "--mesh", "5"], "mesh is '5'; wanted COLUMNSxROWS"),
        (["simulate", "--model", "qkformer_3_64_digits", "--images", "1", "--mesh", "3x2"], "needs 31 cores"),
        (["simulate", "--model", "qkformer_3_64_digits", "--images", "0"], "images is 0"),
        (["simulate", "--model", "qkformer_3_64_digits", "--trace", "trace.json"], "not both"),
        (["simulate"], "--model NAME"),
    ],
)
def test_a_mistake_is_one_line_that_names_what_was_wanted(arguments, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    error = error_of(arguments, capsys)
    assert named in error
    assert error.startswith("spimm: error:") and len(error.strip().splitlines()) == 1


def test_resuming_by_the_same_command_goes_on(tmp_path, capsys):
    command = ["train", "digits", *SHORT, "--out", str(tmp_path)]
    assert main(command) == 0
    steps = (tmp_path / "log.jsonl").read_text().count('"kind": "step"')
    assert main(command) == 0
    assert (tmp_path / "log.jsonl").read_text().count('"kind": "step"') == steps
