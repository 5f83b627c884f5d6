"""The tables of docs/results/README.md that scripts compute are theirs, and its figure is drawn of the same numbers."""

import json
import runpy

from spimm.reproduce import load_results
from spimm.train import describe_recipe

from .test_docs import ROOT

RESULTS = ROOT / "docs" / "results"
PAGE = (RESULTS / "README.md").read_text(encoding="utf-8")
PARETO = runpy.run_path(str(ROOT / "docs" / "pareto.py"))


def test_the_table_of_one_budget_is_that_of_the_records() -> None:
    points = PARETO["points"](load_results(RESULTS))
    assert "\n".join(PARETO["table"](points)) in PAGE
    assert [point.spiking for point in points] == [True, False] * 4


def test_the_recipes_expect_what_was_measured() -> None:
    found = [result for result in load_results(RESULTS) if result.record.name.startswith(PARETO["PREFIX"])]
    assert len(found) == 9
    for result in found:
        assert f"Expected: {result.figures['top1']:.2f} %" in describe_recipe(result.record.name)


def test_the_frontier_holds_those_that_none_beats_at_no_more_energy() -> None:
    point = PARETO["Point"]
    kept, worse, equal, last = (
        point("ttfs", "", True, 1, 1, top1, 0.1, energy, energy, 1.0)
        for top1, energy in ((60.0, 1.0), (59.0, 2.0), (60.0, 3.0), (61.0, 4.0))
    )
    assert PARETO["frontier"]([last, equal, worse, kept]) == [kept, last]


def test_the_figure_shows_every_network() -> None:
    points = PARETO["points"](load_results(RESULTS))
    (axes,) = PARETO["draw"](points).axes
    drawn = [tuple(collection.get_offsets()[0]) for collection in axes.collections]
    assert drawn == [(point.microjoules, point.top1) for point in points]
    assert (ROOT / "docs" / "figures" / "pareto.png").is_file()


def test_the_twin_on_spikingjelly_is_told_as_it_was_measured() -> None:
    found = json.loads((RESULTS / "cifar10_jpeg_twin" / "twin.json").read_text(encoding="utf-8"))
    told = PAGE.split("## cifar10_jpeg_twin")[1].split("\n## ")[0]
    for run in found["runs"]:
        assert f"{run['top1']:.2f}" in told and f"| {run['seconds']:.0f} |" in told
    assert f"{found['time_ratio']}x" in told


def test_what_fires_on_queries_is_told_as_it_was_measured() -> None:
    log = RESULTS / "spikeatconv_cifar10_jpeg" / "attention_spk.jsonl"
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    told = PAGE.split("\n## spikeatconv_cifar10_jpeg")[1].split("\n## ")[0]
    runs = {(record["attention_spk"], record["seed"]) for record in records}
    for kind, seed in runs:
        epochs = [r for r in records if (r["attention_spk"], r["seed"], r["kind"]) == (kind, seed, "epoch")]
        cells = " | ".join(f"{epoch['top1']:.2f}" for epoch in epochs)
        assert f"| `{kind}` | {seed} | {cells} | {epochs[-1]['train_loss']:.4f} |" in told
        options = [
            r["recipe"]["model_options"]
            for r in records
            if (r["attention_spk"], r["seed"], r["kind"]) == (kind, seed, "start")
        ]
        assert all(option["attention_spk"] == kind for option in options)
