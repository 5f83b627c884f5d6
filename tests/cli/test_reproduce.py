"""`spimm reproduce` as a user runs it."""

import json
from pathlib import Path

import pytest

from spimm.cli.main import main
from spimm.reproduce import Row, list_rows, load_results
from spimm.reproduce.rows import Setup

SHORT = ("epochs=1", "warmup_epochs=0", "batch_size=256", "tensorboard=false")
DIGITS = Row("ttfs/mnist/digits", "", "", {"top1": 98.0}, full=Setup("digits"), needs="nothing")


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["reproduce", *arguments]) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture
def with_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that trains in a second."""
    for module in ("spimm.reproduce", "spimm.reproduce.records", "spimm.reproduce.collect"):
        monkeypatch.setattr(f"{module}.list_rows", lambda: (*list_rows(), DIGITS))


@pytest.mark.usefixtures("with_digits")
def test_a_row_is_trained_recorded_and_listed(tmp_path, capsys):
    run, results = tmp_path / "digits", tmp_path / "results"
    assert main(["reproduce", DIGITS.id, *SHORT, "--out", str(run)]) == 0
    assert "the paper prints 98 %" in capsys.readouterr().out
    record = json.loads((run / "record.json").read_text())
    assert record["rows"] == [DIGITS.id] and record["entries"][0]["figures"]["top1"] > 0
    assert all(change in record["command"] for change in SHORT[:3])

    assert main(["reproduce", DIGITS.id, "--record", str(run), "--name", "one", "--results", str(results)]) == 0
    assert "recorded in" in capsys.readouterr().out
    assert [result.record.name for result in load_results(results)] == ["one"]
    assert main(["reproduce", "--results", str(results)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [DIGITS.id, "98", "%", "trained", "otherwise"] in rows  # batches of 256
    assert ["ttfs/mnist/cnn", "99.4", "%;", "0.3913", "not", "reachable", "here"] in rows
    assert "already" in error_of([DIGITS.id, "--record", str(run), "--name", "one", "--results", str(results)], capsys)


def test_a_row_that_is_counted_is_counted(capsys):
    assert main(["reproduce", "ttfs/coding/phase"]) == 0
    out = capsys.readouterr().out
    assert "truenorth: 7.1477, in print 7.1476 (tests/analyze/test_neuromorphic.py::test_" in out


def test_a_dry_run_plans_the_small_run_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    seen = {}
    monkeypatch.setattr("spimm.cli.reproduce.plan_run", lambda recipe, **options: seen.update(recipe=recipe, **options))
    monkeypatch.setattr("spimm.cli.reproduce.print_plan", lambda console, plan: console.print("a plan"))
    options = ["--scaled", "--dry-run", "--data-dir", "here"]
    assert main(["reproduce", "qkformer/cifar10/4-384-t4", "epochs=2", *options]) == 0
    assert (seen["recipe"].name, seen["recipe"].epochs, seen["data_dir"]) == ("cifar10_jpeg", 2, Path("here"))
    out = capsys.readouterr().out
    assert "a plan" in out and "68.79 % top-1" in out
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_printed_or_put_into_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("spimm.reproduce.render", lambda results: f"a page of {len(results)}\n")
    assert main(["reproduce", "--table", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "a page of 0\n"
    assert main(["reproduce", "--table", str(tmp_path), "--into", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text() == "a page of 0\n"


def test_without_records_nothing_counts_as_trained(tmp_path, capsys):
    assert main(["reproduce", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "scaled down" not in out
    assert f"no records in {tmp_path}" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ttfs/mnist/cn"], "unknown row 'ttfs/mnist/cn'; nearest: ttfs/mnist/cnn"),
        (["metaspikeformer/voc2012/15m-t4"], "has no recipe: the segmentation head is not built here"),
        (["qkformer/dvs128/2-256-t16", "--scaled"], "no recipe for small data"),
        (["ttfs/mnist/cnn", "data=cifar10"], "does not stand for ttfs/mnist/cnn"),
        (["ttfs/mnist/cnn", "ttfs/cifar10/vgg11"], "rows are ttfs/mnist/cnn, ttfs/cifar10/vgg11; wanted one"),
        (["--into", "page.md"], "wanted --table FOLDER as well"),
        (["ttfs/mnist/cnn", "--name", "cnn"], "wanted --record RUN as well"),
        (["ttfs/mnist/cnn", "epochs=1", "--record", "runs/cnn"], "a recorded run takes no changes, got epochs=1"),
        (["ttfs/mnist/cnn", "--record", "runs/none"], "there is no log runs/none/log.jsonl"),
    ],
)
def test_what_cannot_be_done_is_said(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert message in error_of(arguments, capsys)
    assert list(tmp_path.iterdir()) == []
