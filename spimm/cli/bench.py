"""`spimm bench`: speed and memory against other libraries, checked before they are timed."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from spimm.bench import (
    Mismatch,
    Options,
    Record,
    Summary,
    find_case,
    list_cases,
    newest,
    put_between_markers,
    render,
    require_peers,
    run_case,
    write,
)
from spimm.files import write_text


def bench(
    cases: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    peers: bool = True,
    quick: bool = False,
    threads: int | None = None,
    out: Path | None = None,
    list: bool = False,
    table: Path | None = None,
    into: Path | None = None,
) -> int:
    """Speed and memory beside other libraries', e.g. 'spimm bench norm_lif train_step --out benchmarks/results'.

    All sides are first shown to compute the same; where they do not, nothing is timed and the exit status is 1. They
    then run turn by turn. Given are the median, the quartiles, the ratio of each round, and the share of the machine's
    bandwidth or arithmetic.

    Args:
        cases: names of cases; all of them by default.
        peers: compare with SpikingJelly and others (pip install 'spimm[peers]'); without, ours alone is timed.
        quick: tiny shapes, to see that everything runs; the numbers mean nothing.
        threads: threads of all sides; torch's own choice by default.
        out: folder for CASE_HARDWARE_DAY.json, .csv and, of a sweep, .png; by default nothing is written.
        list: name the cases and stop.
        table: run nothing; print the newest records in this folder as tables in Markdown.
        into: with table, a document between whose markers the tables are put, instead of printing them.
    """
    console = Console()
    if into is not None and table is None:
        raise ValueError(f"into is {into}, but there is no table to put there; wanted --table FOLDER as well")
    if table is not None:
        return _render(table, into)
    if list:
        cases_table = Table("case", "what is measured", box=None)
        for case in list_cases():
            cases_table.add_row(case.name, case.about)
        console.print(cases_table)
        return 0
    names = [find_case(name).name for name in cases] or [case.name for case in list_cases()]
    if peers:
        require_peers()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in names:
        with console.status(name) as status:
            try:
                record = run_case(
                    name,
                    Options(peers=peers, quick=quick),
                    threads=threads,
                    command=_command(name, peers, quick, threads),
                    on_stage=lambda stage, name=name: status.update(f"{name}: {stage}"),
                )
            except Mismatch as error:
                failed = True
                console.print(f"[bold red]{name}: the sides disagree, not timed:[/] {error}", highlight=False)
                continue
        _show(record, console)
        if out is not None:
            console.print("written:", ", ".join(map(str, write(record, out))), soft_wrap=True)
    return int(failed)


def _render(folder: Path, into: Path | None) -> int:
    tables = render(newest(folder))
    if into is None:
        sys.stdout.write(tables)
    else:
        write_text(into, put_between_markers(into.read_text(encoding="utf-8"), tables))
    return 0


def _command(name: str, peers: bool, quick: bool, threads: int | None) -> str:
    options = [*([] if peers else ["--no-peers"]), *(["--quick"] if quick else [])]
    return shlex.join(["spimm", "bench", name, *options, *([] if threads is None else ["--threads", str(threads)])])


def _show(record: Record, console: Console) -> None:
    cpu, isa = record.hardware["cpu"], record.hardware["spimm_isa"]
    table = Table(
        "", "median", "quartiles", "min - max", "goal",
        title=f"[bold]{record.case}[/]: {record.about}{' (quick: the numbers mean nothing)' if record.quick else ''}",
        caption=f"{cpu}, {record.threads} threads, {isa}, load {record.load_average}; {record.repeats} rounds; "
        f"{len(record.checks)} checks passed",
        title_justify="left", caption_justify="left",
    )  # fmt: skip
    for column in range(1, 4):
        table.columns[column].justify = "right"
    for side, summary in record.sides.items():
        table.add_row(side, *_cells(summary, record.unit), "")
    table.add_section()
    for item in record.comparisons:
        goal = "" if item.goal is None else f"{item.goal:g} x, {'met' if item.met else '[red]missed[/]'}"
        table.add_row(f"{item.slower} / {item.faster}", *_cells(item.ratio, "x"), goal)
    console.print(table)
    for rate in record.rates:
        share = "the limit" if rate.side == rate.limit else f"{rate.share.median:.0%} of {rate.limit}"
        console.print(f"  {rate.side}: {rate.readable}, {share}", highlight=False)
    for curve in record.curves:
        growth = f"{curve.label}^{curve.slope:.2f}, steepest {curve.steepest:.2f}"
        console.print(f"  {curve.name}: grows as {growth}", highlight=False)


def _cells(summary: Summary, unit: str) -> tuple[str, str, str]:
    return (
        f"{summary.median:.4g} {unit}",
        f"{summary.q1:.4g} - {summary.q3:.4g}",
        f"{summary.min:.4g} - {summary.max:.4g}",
    )
