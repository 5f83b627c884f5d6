"""The record as files, and the command that shows and writes it."""

import csv
import io
import json
import math
from pathlib import Path

import pytest
import tyro

from spimm.bench import Comparison, Mismatch, Ratio, Record, Series, Summary, Sweep, Work, write
from spimm.bench.curves import curves_of
from spimm.bench.environment import hardware, slug
from spimm.bench.rates import rates_of
from spimm.bench.results import COLUMNS
from spimm.cli.bench import bench

SLOW, FAST = Summary.of([10.0, 12.0, 11.0]), Summary.of([1.0, 2.0, 1.0])


def record(*, quick: bool = False, goal: float | None = 8.0, sweep: bool = False) -> Record:
    ratio = Summary.of([10.0, 6.0, 11.0])
    return Record(
        case="norm_lif",
        about="what it is",
        quick=quick,
        unit="ms",
        setting={"shape": [1, 2]},
        checks={"spikes": 0.0},
        sides={"spikingjelly fp32": SLOW, "spimm fp32": FAST},
        comparisons=[Comparison.of(Ratio("spikingjelly fp32", "spimm fp32", goal), ratio, quick=quick)],
        rates=rates_of(
            {"spimm fp32": Work(3e6, "B", "copy"), "copy": Work(8e6, "B", "copy")},
            {"spimm fp32": FAST.samples, "copy": [1.0, 2.0, 2.0]},
        ),
        curves=curves_of(
            Sweep("T", [Series("time", {1: "spimm fp32", 4: "spikingjelly fp32"}, expected=1.0)]) if sweep else None,
            {"spikingjelly fp32": SLOW, "spimm fp32": FAST},
        ),
        hardware=hardware() | {"cpu": "Fast(R) Chip(TM) 9 CPU @ 2.20GHz", "cores": 2, "spimm_isa": "avx2"},
        versions={"torch": "2.8", "spikingjelly": None},
        threads=2,
        warmup=1,
        repeats=3,
        date="2026-01-02T03:04:05+00:00",
        command="spimm bench norm_lif",
        load_average=0.1,
    )


def test_json_holds_every_sample_and_whether_the_goal_is_met(tmp_path: Path) -> None:
    json_path, _ = write(record(), tmp_path / "new" / "results")
    assert json_path.name == "norm_lif_fast-chip-9-2c-avx2_2026-01-02.json"
    data = json.loads(json_path.read_text())
    assert data["sides"]["spikingjelly fp32"]["samples"] == [10.0, 12.0, 11.0]
    assert data["comparisons"][0]["ratio"]["median"] == 10.0
    assert (data["comparisons"][0]["goal"], data["comparisons"][0]["met"]) == (8.0, True)
    assert data["command"] == "spimm bench norm_lif"
    assert data["versions"] == {"torch": "2.8", "spikingjelly": None}
    assert data["hardware"].keys() >= {"cpu", "cores", "spimm_isa", "torch_isa", "features"}


def test_csv_has_a_line_for_every_side_and_ratio(tmp_path: Path) -> None:
    _, csv_path = write(record(goal=20.0), tmp_path)
    rows = list(csv.DictReader(io.StringIO(csv_path.read_text())))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["kind"], row["name"], row["median"], row["unit"], row["samples"]) for row in rows] == [
        ("side", "spikingjelly fp32", "11.0", "ms", "3"),
        ("side", "spimm fp32", "1.0", "ms", "3"),
        ("ratio", "spikingjelly fp32 / spimm fp32", "10.0", "x", "3"),
        ("rate", "spimm fp32", "3000000000", "B/s", "3"),
        ("share", "spimm fp32 of copy", "0.375", "", "3"),
        ("rate", "copy", "4000000000", "B/s", "3"),
        ("share", "copy of copy", "1.0", "", "3"),
    ]
    assert (rows[2]["goal"], rows[2]["met"], rows[0]["goal"]) == ("20.0", "False", "")


def test_a_sweep_has_a_line_in_the_csv_and_a_picture(tmp_path: Path) -> None:
    _, csv_path, png_path = write(record(sweep=True), tmp_path)
    assert png_path.read_bytes().startswith(b"\x89PNG")
    assert png_path.name == "norm_lif_fast-chip-9-2c-avx2_2026-01-02.png"
    row = list(csv.DictReader(io.StringIO(csv_path.read_text())))[-1]
    assert (row["kind"], row["name"], row["samples"]) == ("slope", "time against T", "2")
    assert float(row["median"]) == pytest.approx(math.log(11) / math.log(4), abs=1e-4)


def test_files_are_replaced_whole_and_nothing_unfinished_is_left(tmp_path: Path) -> None:
    paths = write(record(), tmp_path)
    paths[0].write_text("old")
    assert write(record(), tmp_path) == paths
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert json.loads(paths[0].read_text())["case"] == "norm_lif"


def test_a_quick_run_has_no_goals_and_files_of_its_own(tmp_path: Path) -> None:
    quick = record(quick=True)
    assert quick.comparisons[0].met is None
    assert quick.stem == "norm_lif-quick_fast-chip-9-2c-avx2_2026-01-02"
    assert json.loads(quick.to_json())["comparisons"][0]["met"] is None


def test_hardware_makes_a_file_name() -> None:
    intel = {"cpu": "Intel(R) Xeon(R) Platinum 8488C", "cores": 2, "spimm_isa": "avx512"}
    assert slug(intel) == "intel-xeon-platinum-8488c-2c-avx512"
    amd = {"cpu": "AMD EPYC 9B14 96-Core Processor", "cores": 8, "spimm_isa": "avx2"}
    assert slug(amd) == "amd-epyc-9b14-96-core-8c-avx2"


def run(*arguments: str) -> int:
    return tyro.cli(bench, args=arguments)


def test_the_command_writes_where_it_is_told_and_shows_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("norm_lif", "lif", "--quick", "--no-peers", "--threads", "1", "--out", str(tmp_path)) == 0
    assert len(list(tmp_path.glob("*_*_*.json"))) == len(list(tmp_path.glob("*_*_*.csv"))) == 2
    (path,) = tmp_path.glob("norm_lif-quick_*.json")
    assert json.loads(path.read_text())["command"] == "spimm bench norm_lif --no-peers --quick --threads 1"
    shown = capsys.readouterr().out
    assert "spimm bf16" in shown
    assert "the numbers mean nothing" in " ".join(shown.split())


def test_the_command_goes_on_after_a_mismatch_writes_nothing_of_it_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def disagree(*_: object, **__: object) -> float:
        raise Mismatch("1 of 4 spikes differ")

    monkeypatch.setattr("spimm.bench.workload.near", disagree)
    assert run("inference", "lif", "--quick", "--no-peers", "--out", str(tmp_path)) == 1
    assert "the sides disagree, not timed: 1 of 4 spikes differ" in " ".join(capsys.readouterr().out.split())
    assert [path.name.split("-")[0] for path in tmp_path.glob("*.json")] == ["lif"]


def test_the_command_lists_cases_and_refuses_unknown_ones_before_it_runs_any(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("--list") == 0
    assert "train_step" in capsys.readouterr().out
    monkeypatch.setattr("spimm.cli.bench.run_case", None)
    with pytest.raises(ValueError, match="unknown case 'nothing'"):
        run("lif", "nothing", "--no-peers")
