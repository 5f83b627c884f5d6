"""The tables that are made of the records in a folder."""

from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from spimm.bench import Comparison, Ratio, Summary, between_markers, newest, put_between_markers, render, write
from spimm.bench.table import END, START
from spimm.cli.bench import bench

from .test_results import record


def test_the_newest_full_record_of_a_case_counts(tmp_path: Path) -> None:
    old, new, quick = (replace(record(), date=date) for date in ("2026-01-02T01", "2026-02-01T01", "2026-03-01T01"))
    for item in (new, old, replace(quick, quick=True)):
        write(item, tmp_path)
    assert [found["date"] for found in newest(tmp_path)] == ["2026-02-01T01"]


def test_other_hardware_is_told_apart_and_cases_keep_their_order(tmp_path: Path) -> None:
    other = replace(record(), hardware=record().hardware | {"cpu": "A Chip"})
    for item in (record(), other, replace(record(), case="train_step"), replace(record(), case="lif")):
        write(item, tmp_path)
    assert [(found["hardware"]["cpu"], found["case"]) for found in newest(tmp_path)] == [
        ("A Chip", "norm_lif"),
        *((record().hardware["cpu"], case) for case in ("norm_lif", "lif", "train_step")),
    ]
    assert render(newest(tmp_path)).count("| case | against |") == 2


def test_tables_hold_ratios_with_goals_rates_and_growth(tmp_path: Path) -> None:
    write(record(sweep=True, goal=20.0), tmp_path)
    text = render(newest(tmp_path))
    assert "| `norm_lif` | spikingjelly fp32 / spimm fp32 | 11 ms | 1 ms | 10.00x | 20x, missed |" in text
    assert "| `norm_lif` | spimm fp32 | 3 GB/s | 38% of copy |" in text
    assert "| `norm_lif` | copy | 4 GB/s | limit |" in text
    assert "| `norm_lif` | time | T 1 to 4 | 1 ms | 11 ms | 1.73 | 1.73 |" in text
    assert "2 threads" in text and "torch 2.8; 2026-01-02" in text
    assert "spikingjelly bf16" not in text
    for block in text.split("\n\n"):
        assert len({line.count("|") for line in block.strip().splitlines()}) == 1


def test_every_comparison_is_shown_like_for_like_first_and_of_these_the_least_favourable(tmp_path: Path) -> None:
    sides = {name: record().sides["spimm fp32"] for name in ("peer fp32", "peer bf16", "spimm fp32", "spimm bf16")}
    pairs = [("peer fp32", "spimm bf16", 3.0, 2.0), ("peer bf16", "spimm bf16", 2.0, None)]
    pairs.append(("peer fp32", "spimm fp32", 0.5, 5.0))
    comparisons = [
        Comparison.of(Ratio(slower, faster, goal), Summary.of([ratio] * 3), quick=False)
        for slower, faster, ratio, goal in pairs
    ]
    write(replace(record(), sides=sides, comparisons=comparisons), tmp_path)
    found = [line.split("|")[5].strip() for line in render(newest(tmp_path)).splitlines() if "peer" in line]
    assert found == ["0.50x", "2.00x", "3.00x"]


def test_processors_of_one_name_and_other_instructions_have_tables_of_their_own(tmp_path: Path) -> None:
    other = replace(record(), hardware=record().hardware | {"spimm_isa": "avx512"})
    for item in (record(), other):
        write(item, tmp_path)
    assert render(newest(tmp_path)).count("| case | against |") == 2


def test_a_folder_without_full_records_is_an_error(tmp_path: Path) -> None:
    write(record(quick=True), tmp_path)
    with pytest.raises(FileNotFoundError, match="no record of a full run"):
        newest(tmp_path)


def test_text_is_put_between_the_markers_and_nothing_else_changes() -> None:
    document = f"before\n{START}\nold\n{END}\nafter\n"
    changed = put_between_markers(document, "new\n")
    assert changed == f"before\n{START}\nnew\n{END}\nafter\n"
    assert between_markers(changed) == "new\n"
    for broken in ("no markers", START, END + START):
        with pytest.raises(ValueError, match="lacks the lines"):
            put_between_markers(broken, "new")


def test_the_command_prints_the_tables_or_puts_them_into_a_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(record(), tmp_path)
    assert tyro.cli(bench, args=["--table", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    document = tmp_path / "document.md"
    document.write_text(f"{START}\n{END}")
    assert tyro.cli(bench, args=["--table", str(tmp_path), "--into", str(document)]) == 0
    assert between_markers(document.read_text()) == printed == render(newest(tmp_path))
    with pytest.raises(ValueError, match="--table FOLDER as well"):
        bench(into=document)
