import re
from dataclasses import replace
from pathlib import Path

import pytest

from spimm.reproduce import Result, Status, find_row, list_rows, load_results, render, status
from spimm.reproduce.page import ELSEWHERE, elsewhere_of, lines_of
from spimm.reproduce.published.quoted import QUOTED

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return load_results(ROOT / "docs" / "results")


def test_the_page_is_made_of_the_records(results: list[Result]) -> None:
    """`spimm reproduce --table docs/results --into docs/reproduction.md` brings it up to date."""
    assert render(results) == PAGE


def test_every_row_and_record_is_on_the_page(results: list[Result]) -> None:
    for row in list_rows():
        assert f"| `{row.id.partition('/')[2]}`: " in PAGE
    for result in results:
        assert result.record.command in PAGE


def test_links_on_the_page_lead_to_files() -> None:
    links = set(re.findall(r"\]\(([^)]+)\)", PAGE))
    assert len(links) > 10
    assert not [link for link in links if not (ROOT / "docs" / link).is_file()]


def test_what_is_quoted_from_others_is_named_and_counted() -> None:
    quoted = PAGE.partition("## Quoted, other systems: not reproduced by this library")[2]
    for found in QUOTED.values():
        assert f"quotes {sum(map(len, found.values()))}. " in quoted
        assert all(name in quoted for names in found.values() for name in names)


def test_a_scaled_down_line_names_what_was_reduced_and_gives_no_difference(results: list[Result]) -> None:
    (line,) = lines_of(find_row(list_rows(), "qkformer/cifar10/4-384-t4"), results)
    assert line[2:5] == ("top-1 68.79 %", "", "scaled down")
    assert line[5].startswith("a JPEG copy of CIFAR-10 for CIFAR-10; ")
    assert line[10] == "[cifar10_jpeg/log.jsonl](results/cifar10_jpeg/log.jsonl)"


def test_a_line_of_our_own_training_gives_the_difference_seeds_and_every_log(results: list[Result]) -> None:
    paper, line = sorted(lines_of(find_row(list_rows(), "ttfs/mnist/cnn"), results), key=lambda line: line[4])
    assert paper[2:5] == ("top-1 85.17 % (85.40 %); spikes a neuron 0.4622", "-14.23 %; +0.0709", "reproduced in full")
    assert line[2].startswith("top-1 99.53 % (99.56 %): 99.47 (99.52), 99.62 (99.63), 99.51 (99.53); ")
    assert line[2].endswith("spikes a neuron 0.2933: 0.2921, 0.2952, 0.2925")
    assert line[3:5] == ("+0.13 %; -0.098", "trained otherwise")
    assert "closed default for True" in line[5]
    assert line[7] == "0, 1, 2" and line[10].count("](") == 6


def test_runs_on_other_data_stand_apart_without_the_papers_figures(results: list[Result]) -> None:
    row = find_row(list_rows(), "qkformer/cifar10dvs/2-256-t16")
    (missing,) = lines_of(row, results)
    assert missing[2:5] == ("", "", "not reachable here")
    (line,) = elsewhere_of(row, results)
    assert len(line) == len(ELSEWHERE) and "1,100 recordings of N-MNIST" in line[1] and "97.36 %" in line[2]
    assert "84" not in line[2]
    assert status(row, "top1", results) is Status.OUT


def test_a_row_without_a_record_says_what_it_takes() -> None:
    row = find_row(list_rows(), "qkformer/imagenet/10-768-t4")
    (line,) = lines_of(row, [])
    assert line[2:5] == ("", "", "not reachable here")
    assert line[5].startswith("ImageNet-1k; 200 epochs") and line[5].endswith("; 8 V100 in the paper")
    (line,) = lines_of(find_row(list_rows(), "qkformer/cifar10/4-384-t4"), [])
    assert line[5].endswith("its `--scaled` run was not made")


def test_a_figure_has_the_best_status_of_its_results(results: list[Result]) -> None:
    row = find_row(list_rows(), "ttfs/mnist/cnn")
    own = next(result for result in results if result.record.name == "ttfs_mnist")
    scaled = replace(own, images=100)
    assert status(row, "top1", [scaled]) is Status.SCALED
    assert status(row, "top1", [scaled, own]) is Status.OWN
    assert status(row, "top1", []) is Status.OUT
