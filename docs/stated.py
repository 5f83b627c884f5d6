"""Which measured numbers on the pages come from a record, and which are only stated: `python docs/stated.py`.

A measured number has a unit or digits after the point. Outside code, links and tables that are generated, each must be
a figure of a record in docs/results, a figure that a paper prints, or stand in docs/stated.json, page by page in the
order of the text. The script writes that file; a test compares, so that no number changes unnoticed.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from spimm.analyze import PUBLISHED_CODINGS
from spimm.files import write_text
from spimm.models import list_models, model_card
from spimm.reproduce import Result, list_rows, load_results

ROOT = Path(__file__).resolve().parents[1]
STATED = ROOT / "docs" / "stated.json"
GENERATED = (r"<!-- benchmarks: .*?<!-- benchmarks end -->", r"<!-- accuracies: .*?<!-- accuracies end -->")
_UNIT = r"%|x|times|points?|[µumn]?J|[µmn]s|s|seconds|min|minutes|hours|[kMG]i?B|images/s|[GT]FLOP/s|GB/s"
_NUMBER = re.compile(rf"(?<![\w.,-])(\d[\d,]*(?:\.\d+)?)(?:[ ]?({_UNIT}))?(?![\w]|[.,]\d)")


def pages() -> list[Path]:
    """README and every page of docs that is written by hand."""
    found = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").rglob("*.md")]
    return sorted(path for path in found if path.name != "reproduction.md")


def measured(text: str) -> list[str]:
    """The measured numbers of a page with their units, in its order."""
    for pattern in (*GENERATED, r"```.*?```", r"`[^`]*`", r"\]\([^)]*\)"):
        text = re.sub(pattern, " ", text, flags=re.DOTALL)
    found = ((number, unit) for number, unit in _NUMBER.findall(" ".join(text.split())) if unit or "." in number)
    return [f"{number} {unit}".rstrip() for number, unit in found]


def recorded(results: Iterable[Result]) -> list[float]:
    """Figures of records and papers; parameters, in millions as well."""
    values = [value for result in results for value in result.figures.values()]
    values += [value for result in results for entry in result.record.entries for value in entry.figures.values()]
    values += [1000 * result.figures["energy"] for result in results if "energy" in result.figures]
    values += [value for row in list_rows() for value in row.figures.values()]
    values += [value for code in PUBLISHED_CODINGS for value in (code.truenorth, code.spinnaker)]
    counts = [float(model_card(name).params) for name in list_models()]
    return [*values, *counts, *(count / 1e6 for count in counts)]


def is_recorded(number: str, values: Iterable[float]) -> bool:
    """Whether a number of two or more digits after the point, or of thousands, is one of the values, rounded."""
    plain = number.split()[0].replace(",", "")
    digits = len(plain.partition(".")[2])
    if digits < 2 and float(plain) < 1000:
        return False
    return any(abs(value - float(plain)) <= 0.5 * 10**-digits * (1 + 1e-9) for value in values)


def stated() -> dict[str, list[str]]:
    """Page -> its measured numbers that no record holds."""
    values = recorded(load_results(ROOT / "docs" / "results"))
    found = {
        str(path.relative_to(ROOT)): [
            number for number in measured(path.read_text(encoding="utf-8")) if not is_recorded(number, values)
        ]
        for path in pages()
    }
    return {page: numbers for page, numbers in found.items() if numbers}


if __name__ == "__main__":
    write_text(STATED, json.dumps(stated(), indent=1, ensure_ascii=False) + "\n")
