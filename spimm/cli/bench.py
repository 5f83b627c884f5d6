"""`spimm bench`: speed and memory against SpikingJelly, checked before they are timed."""

import shlex
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from spimm.bench import Mismatch, Options, Record, Summary, find_case, list_cases, require_peers, run_case, write


def bench(
    cases: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    peers: bool = True,
    quick: bool = False,
    threads: int | None = None,
    out: Path | None = None,
    list: bool = False,
) -> int:
    """Speed and memory beside SpikingJelly's, e.g. 'spimm bench norm_lif train_step --out benchmarks/results'.

    Both sides are first shown to compute the same; where they do not, nothing is timed and the exit status is 1. They
    then run turn by turn. Given are the median, the quartiles, and the ratio of each round.

    Args:
        cases: names of cases; all of them by default.
        peers: compare with SpikingJelly (pip install 'spimm[peers]'); without, ours alone is timed.
        quick: tiny shapes, to see that everything runs; the numbers mean nothing.
        threads: threads of both sides; torch's own choice by default.
        out: folder for CASE_HARDWARE_DAY.json and .csv; by default nothing is written.
        list: name the cases and stop.
    """
    console = Console()
    if list:
        table = Table("case", "what is measured", box=None)
        for case in list_cases():
            table.add_row(case.name, case.about)
        console.print(table)
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


def _cells(summary: Summary, unit: str) -> tuple[str, str, str]:
    return (
        f"{summary.median:.4g} {unit}",
        f"{summary.q1:.4g} - {summary.q3:.4g}",
        f"{summary.min:.4g} - {summary.max:.4g}",
    )
