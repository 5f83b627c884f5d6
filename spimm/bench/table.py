"""Tables in Markdown of the newest records in a folder, and their place in a document."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spimm.bench.environment import slug
from spimm.bench.precision import PRECISIONS
from spimm.bench.rates import readable
from spimm.bench.registry import list_cases

START, END = "<!-- benchmarks: spimm bench --table -->", "<!-- benchmarks end -->"
Loaded = dict[str, Any]
"""A record as its JSON holds it."""


def newest(folder: Path) -> list[Loaded]:
    """The last full run of each case on each hardware, by hardware, in the order of registration.

    Raises FileNotFoundError where there is none.
    """
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    last: dict[tuple[str, str], Loaded] = {}
    for record in sorted((record for record in records if not record["quick"]), key=lambda record: record["date"]):
        last[slug(record["hardware"]), record["case"]] = record
    if not last:
        raise FileNotFoundError(
            f"{folder} holds no record of a full run; wanted the JSON that 'spimm bench --out' writes"
        )
    order = [case.name for case in list_cases()]
    place = {name: index for index, name in enumerate(order)}
    return [last[key] for key in sorted(last, key=lambda key: (key[0], place.get(key[1], len(order)), key[1]))]


def render(records: Iterable[Loaded]) -> str:
    """A heading and up to three tables for each hardware: ratios, shares of the machine's limits, growth."""
    by_hardware: dict[str, list[Loaded]] = {}
    for record in records:
        by_hardware.setdefault(slug(record["hardware"]), []).append(record)
    return "\n\n".join(block for found in by_hardware.values() for block in _blocks(found)) + "\n"


def _blocks(records: list[Loaded]) -> list[str]:
    hardware = records[0]["hardware"]
    versions = {pair for record in records for pair in record["versions"].items() if pair[0] != "python" and pair[1]}
    days = sorted({record["date"][:10] for record in records})
    libraries = ", ".join(" ".join(pair) for pair in sorted(versions))
    threads = " or ".join(map(str, sorted({record["threads"] for record in records})))
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    heading = f"{hardware['cpu']}, {threads} threads, {hardware['spimm_isa']}; {libraries}; {when}. Medians."
    tables = [
        _table(("case", "against", "theirs", "ours", "ratio", "goal"), "--rrrr", map(_ratios, records)),
        _table(("case", "side", "rate", "of the machine's"), "--rr", map(_rates, records)),
        _table(
            ("case", "growth of", "against", "from", "to", "exponent", "steepest"), "---rrrr", map(_curves, records)
        ),
    ]
    return [heading, *(table for table in tables if table)]


def _ratios(record: Loaded) -> list[tuple[str, ...]]:
    """Those of equal precision first, and the least favourable of them first."""
    sides, unit = record["sides"], record["unit"]
    rows = []
    for item in sorted(record["comparisons"], key=lambda item: (not _alike(item), item["ratio"]["median"])):
        theirs, ours = (f"{_number(sides[item[which]]['median'])} {unit}" for which in ("slower", "faster"))
        goal = "" if item["goal"] is None else f"{item['goal']:.3g}x, {'met' if item['met'] else 'missed'}"
        against = f"{item['slower']} / {item['faster']}"
        rows.append((f"`{record['case']}`", against, theirs, ours, f"{item['ratio']['median']:.2f}x", goal))
    return rows


def _alike(item: Loaded) -> bool:
    """Whether both sides compute in the same precision."""
    slower, faster = (set(item[which].split()) & set(PRECISIONS) for which in ("slower", "faster"))
    return slower == faster


def _rates(record: Loaded) -> list[tuple[str, ...]]:
    """Those of our fused ops and networks, and the limits."""
    return [
        (
            f"`{record['case']}`",
            rate["side"],
            readable(rate["per_second"], rate["unit"]),
            "limit" if rate["side"] == rate["limit"] else f"{rate['share']['median']:.0%} of {rate['limit']}",
        )
        for rate in record.get("rates", ())
        if rate["side"] == rate["limit"] or (rate["side"].startswith("spimm") and "separate" not in rate["side"])
    ]


def _curves(record: Loaded) -> list[tuple[str, ...]]:
    return [
        (
            f"`{record['case']}`",
            curve["name"],
            f"{curve['label']} {curve['x'][0]:g} to {curve['x'][-1]:g}",
            *(f"{_number(curve['y'][end])} {record['unit']}" for end in (0, -1)),
            f"{curve['slope']:.2f}",
            f"{curve['steepest']:.2f}",
        )
        for curve in record.get("curves", ())
    ]


def _number(value: float) -> str:
    """Three digits, never in powers of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _table(columns: tuple[str, ...], sides: str, rows: Iterable[list[tuple[str, ...]]]) -> str:
    """Nothing without rows. `sides` has an r for each column whose numbers stand to the right."""
    flat = [row for found in rows for row in found]
    if not flat:
        return ""
    rule = ["---:" if side == "r" else "---" for side in sides]
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, rule, *flat))


def put_between_markers(document: str, text: str) -> str:
    """The document with `text` in place of what stands between START and END. Raises ValueError without the two."""
    before, start, rest = document.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"the document lacks the lines {START!r} and {END!r}")
    return f"{before}{START}\n{text}{END}{after}"


def between_markers(document: str) -> str:
    """What stands between START and END, without the line break behind START."""
    return document.partition(START)[2].partition(END)[0].removeprefix("\n")
