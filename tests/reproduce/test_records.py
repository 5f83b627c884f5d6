import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from spimm.analyze import Layer, Trace
from spimm.reproduce import Record, Status, add_runs, find_row, list_rows, load_results, save, status
from spimm.reproduce.collect import command, record_runs
from spimm.reproduce.logs import RunFiles, read_run
from spimm.train import apply_overrides, load_recipe, read_log

from .conftest import Finish, lines_of, write_log

ROW = "ttfs/mnist/cnn"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_finished_run_is_added_and_read_again(finish: Finish, results: Path) -> None:
    path = add_runs([finish("cnn", "ttfs_mnist", [99.5, 99.4])], [ROW], results)
    assert path == results / "records" / "cnn.json"
    assert {file.name for file in (results / "cnn").iterdir()} == {"log.jsonl", "recipe.json", "data.json"}
    (result,) = load_results(results)
    assert result.figures == {"top1": 99.4, "best_top1": 99.5, "top5": 99.0}
    assert (result.minutes, result.images, result.recipe.name) == (2, 10_000, "ttfs_mnist")
    assert result.record.command == "SPIMM_DATA=FOLDER spimm train ttfs_mnist"
    assert result.record.commit and result.record.hardware and result.record.versions["torch"] == "2.9"
    row = find_row(list_rows(), ROW)
    assert status(row, "top1", [result]) is Status.OWN
    assert status(row, "sparsity", [result]) is Status.OUT


def test_runs_of_several_seeds_make_one_record_with_their_mean(finish: Finish, results: Path) -> None:
    runs = [finish(f"s{seed}", "ttfs_mnist", [90.0, 99.0 + seed / 2], seed=seed) for seed in (0, 1)]
    log = runs[0] / "log.jsonl"
    log.write_text(log.read_text() + json.dumps({"kind": "step", "step": 11, "time": 130.0}) + "\n")
    add_runs(runs, [ROW], results, name="both")
    (result,) = load_results(results)
    assert (result.figures["top1"], result.each("top1")) == (99.25, [99.0, 99.5])
    assert result.record.command.endswith("ttfs_mnist seed=S")
    assert {line["kind"] for line in read_log(results / "both" / "runs.jsonl")} == {"start", "epoch"}


def test_a_result_is_not_written_over(finish: Finish, results: Path) -> None:
    run = finish("cnn", "ttfs_mnist", [99.5])
    add_runs([run], [ROW], results)
    with pytest.raises(FileExistsError, match="has a result 'cnn' already"):
        add_runs([run], [ROW], results)


def test_a_record_without_its_log_is_refused(finish: Finish, results: Path) -> None:
    add_runs([finish("cnn", "ttfs_mnist", [99.5])], [ROW], results)
    (results / "cnn" / "log.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no log .*cnn/log\.jsonl"):
        load_results(results)


def test_a_record_that_says_other_than_its_log_is_refused(finish: Finish, results: Path) -> None:
    path = add_runs([finish("cnn", "ttfs_mnist", [99.5])], [ROW], results)
    change(path, '"top1": 99.5', '"top1": 99.9')
    with pytest.raises(ValueError, match=r"record cnn has .*99\.9.*log\.jsonl says .*99\.5"):
        load_results(results)


def test_a_record_of_another_seed_or_row_than_its_log_is_refused(finish: Finish, results: Path) -> None:
    path = add_runs([finish("cnn", "ttfs_mnist", [99.5])], [ROW], results)
    right = Record.from_json("cnn", path.read_text())
    with pytest.raises(ValueError, match="has seed 5 and fold None"):
        save(replace(right, entries=(replace(right.entries[0], seed=5),)), results)
    with pytest.raises(ValueError, match=r"does not stand for ttfs/cifar10/vgg16"):
        save(replace(right, rows=("ttfs/cifar10/vgg16",)), results)
    with pytest.raises(ValueError, match="names no run"):
        save(replace(right, entries=()), results)
    assert Record.from_json("cnn", right.to_json()) == right


def test_a_run_that_is_not_complete_is_refused_and_nothing_is_copied(finish: Finish, results: Path) -> None:
    run = finish("cnn", "ttfs_mnist", [99.5, 99.6])
    log = run / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="was tested up to epoch 39; wanted 40: not complete"):
        add_runs([run], [ROW], results)
    write_log(log, lines_of(load_recipe("ttfs_mnist"), [])[:1])
    with pytest.raises(ValueError, match="up to epoch 0"):
        add_runs([run], [ROW], results)
    write_log(log, [])
    with pytest.raises(ValueError, match="has no start of a run"):
        add_runs([run], [ROW], results)
    with pytest.raises(ValueError, match="no run is given"):
        add_runs([], [ROW], results, name="none")
    assert not results.exists()


def test_two_runs_in_one_log_are_refused_unless_told_apart(tmp_path: Path) -> None:
    recipe = load_recipe("mnist")
    lines = [{**line, "mark": seed} for seed in (0, 1) for line in lines_of(replace(recipe, seed=seed), [99.0 + seed])]
    write_log(tmp_path / "log.jsonl", lines)
    assert read_run(tmp_path, RunFiles("log.jsonl", {"mark": 1})).figures["top1"] == 100.0
    with pytest.raises(ValueError, match="has several runs"):
        read_run(tmp_path, RunFiles("log.jsonl", {}))


def test_averaged_weights_take_precedence_and_pauses_are_not_counted(tmp_path: Path) -> None:
    start, first, last = lines_of(load_recipe("mnist"), [97.0, 98.0])
    resume = {**start, "kind": "resume", "time": 10_000.0}
    averaged = {**last, "ema_top1": 98.5, "ema_top5": 99.5, "time": 10_060.0}
    write_log(tmp_path / "log.jsonl", [start, first, resume, averaged])
    run = read_run(tmp_path, RunFiles("log.jsonl", {}))
    assert run.figures == {"top1": 98.5, "best_top1": 98.5, "top5": 99.5}
    assert run.minutes == 2


def analyzed(run: Path, *, samples: int, rates: float | None = None) -> Path:
    """What `spimm analyze` leaves beside a run, for 4 neurons that fire with 0.25."""
    layer = Layer("a", "neuron", (4,), (4,), 1, step_rates=(0.25,), channel_rates=(0.25,) * 4)
    Trace("ttfs_mnist_cnn", 1, samples, (layer,)).save(run / "analysis" / "trace.json")
    report = {"model": "ttfs_mnist_cnn", "rates": rates, "totals": {"millijoules": 0.5}}
    (run / "analysis" / "energy.json").write_text(json.dumps(report))
    return run


def test_spikes_and_energy_come_from_the_analysis(finish: Finish, results: Path) -> None:
    runs = [analyzed(finish(f"s{seed}", "ttfs_mnist", [99.5], seed=seed), samples=10_000) for seed in (0, 1)]
    add_runs(runs, [ROW], results, name="both")
    (result,) = load_results(results)
    assert (result.figures["sparsity"], result.figures["energy"]) == (0.25, 0.5)
    assert status(find_row(list_rows(), ROW), "sparsity", [result]) is Status.OWN
    assert (results / "both" / "trace_seed1.json").is_file()
    change(results / "both" / "trace_seed1.json", "0.25", "0.5")
    with pytest.raises(ValueError, match=r"record both has .*says .*'sparsity': 0\.5"):
        load_results(results)
    (results / "both" / "energy_seed0.json").unlink()
    with pytest.raises(FileNotFoundError, match="there is no energy"):
        load_results(results)


def test_a_run_without_a_row_has_spikes_a_neuron_as_well_unless_its_network_has_none(finish: Finish) -> None:
    run = analyzed(finish("own", "ttfs_mnist", [99.5]), samples=10_000)
    assert record_runs([run], [], name="own").entries[0].figures["sparsity"] == 0.25
    Trace("ttfs_mnist_cnn", 1, 10_000, ()).save(run / "analysis" / "trace.json")
    assert "sparsity" not in record_runs([run], [], name="own").entries[0].figures


def test_an_analysis_of_some_images_or_at_given_rates_is_refused(finish: Finish) -> None:
    run = analyzed(finish("few", "ttfs_mnist", [99.5]), samples=256)
    for rows in ([ROW], []):
        with pytest.raises(ValueError, match="on 256 images; wanted ttfs_mnist_cnn on all 10000"):
            record_runs([run], rows, name="few")
    run = analyzed(finish("given", "ttfs_mnist", [99.5]), samples=10_000, rates=0.3)
    with pytest.raises(ValueError, match=r"at rates 0\.3; wanted ttfs_mnist_cnn at measured ones"):
        record_runs([run], [ROW], name="given")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mnist", []),
        ("cifar10_jpeg", ["epochs=9", "augment.pad=2", "model_options.neuron=plif", "betas=0.8,0.9", "clip_norm=0.0"]),
        ("ttfs_vgg11_cifar10", ["milestones=20,30", "init_from=none", "weight_bits=4", "tensorboard=false"]),
        ("nmnist", ["fold=3", "eval_every=10", "model_options.thresholds=1,2"]),
    ],
)
def test_the_command_of_a_run_gives_its_recipe_again(name: str, changes: list[str]) -> None:
    recipe = apply_overrides(load_recipe(name), changes)
    found = re.fullmatch(r"SPIMM_DATA=FOLDER spimm train (\w+) ?(.*)", command([recipe]))
    assert found is not None
    assert found[1] == name
    assert apply_overrides(load_recipe(name), found[2].split()) == recipe


def test_the_command_of_several_runs_leaves_seed_and_fold_open() -> None:
    recipe = load_recipe("nmnist")
    runs = [replace(recipe, fold=fold, epochs=3) for fold in (0, 1)]
    assert command(runs).endswith("nmnist epochs=3 fold=K")
    assert command([replace(recipe, seed=2)]).endswith("nmnist seed=2")
