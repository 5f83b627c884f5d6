"""No measured number on a page changes unnoticed: it is of a record, or stands in docs/stated.json."""

import json
import runpy

from spimm.reproduce import load_results

from .test_docs import README, ROOT

NUMBERS = runpy.run_path(str(ROOT / "docs" / "stated.py"))
ACCURACY = runpy.run_path(str(ROOT / "docs" / "accuracy.py"))


def test_numbers_without_a_record_are_those_that_are_stated() -> None:
    """`python docs/stated.py` brings docs/stated.json up to date: look at what it changes."""
    assert NUMBERS["stated"]() == json.loads((ROOT / "docs" / "stated.json").read_text(encoding="utf-8"))


def test_the_table_of_accuracies_is_made_of_the_records() -> None:
    """`python docs/accuracy.py` brings it up to date."""
    assert ACCURACY["put"](README, ACCURACY["table"](load_results(ROOT / "docs" / "results"))) == README


def test_measured_numbers_have_a_unit_or_digits_after_the_point() -> None:
    text = "In 2024, 3 runs of `x=1.5` took 12 minutes: 97.36 % ([log](a/1.2.md)), 2.67x, 1,100 files, 0.29 spikes."
    assert NUMBERS["measured"](text) == ["12 minutes", "97.36 %", "2.67 x", "0.29"]


def test_a_number_is_recorded_only_if_it_is_the_rounded_figure() -> None:
    found = NUMBERS["is_recorded"]
    assert found("97.36 %", [97.3636]) and not found("97.63 %", [97.3636])
    assert found("526,480", [526480.0]) and not found("526,481", [526480.0])
    assert not found("97.4 %", [97.3636])
