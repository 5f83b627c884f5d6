"""`spimm reproduce`: the figures of the papers, what of them is reproduced, and the runs that do it."""

import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from spimm import reproduce as ledger
from spimm.cli.console import wide_console
from spimm.cli.plan import print_plan
from spimm.files import write_text
from spimm.train import describe_recipe, plan_run


def reproduce(
    rows: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    scaled: bool = False,
    dry_run: bool = False,
    out: Path | None = None,
    data_dir: Path | None = None,
    download: bool = False,
    record: tuple[Path, ...] = (),
    name: str | None = None,
    results: Path = Path("docs/results"),
    table: Path | None = None,
    into: Path | None = None,
) -> int:
    """Reproduce a figure of the papers, e.g. 'spimm reproduce ttfs/mnist/cnn --out runs/cnn'.

    Without a row all are listed, with what has been reproduced. A row is trained by its recipe as 'spimm train' does;
    what needs no training is counted. 'spimm reproduce ttfs/mnist/cnn --record runs/cnn' adds a finished run to the
    results.

    Args:
        rows: a row and changes to its recipe, as key=value; with --record all rows that the run stands for, or none.
        scaled: train the row on small data.
        dry_run: print what the run would take and stop.
        out: folder of the run; runs/reproduce/ROW by default.
        data_dir: folder with the data sets; the environment variable SPIMM_DATA by default.
        download: let torchvision fetch a data set that is missing from the data folder.
        record: folders of finished runs, seeds or folds of the same recipe, to be copied to the results and recorded.
        name: with --record, name of the result; that of the first run's folder by default.
        results: folder of results and of their records.
        table: read the records in this folder of results and print the page of the ledger in Markdown.
        into: with table, the file that the page becomes, instead of printing it.
    """
    console = wide_console()
    if into is not None and table is None:
        raise ValueError(f"into is {into}, but there is no page to put there; wanted --table FOLDER as well")
    if name is not None and not record:
        raise ValueError(f"name is {name!r}, but nothing is recorded; wanted --record RUN as well")
    if table is not None:
        return _page(table, into)
    names, changes = [row for row in rows if "=" not in row], [row for row in rows if "=" in row]
    if record:
        if changes:
            raise ValueError(f"a recorded run takes no changes, got {' '.join(changes)}")
        console.print(f"recorded in {ledger.add_runs(record, names, results, name=name)}", soft_wrap=True)
        return 0
    if not names:
        return _list(console, results)
    if len(names) > 1:
        raise ValueError(f"rows are {', '.join(names)}; wanted one")
    row = ledger.find_row(ledger.list_rows(), names[0])
    _show_counts(console, row)
    if not row.trained:
        return 0
    recipe = ledger.prepare(row, changes, scaled=scaled)
    if dry_run:
        console.print(describe_recipe(recipe.name), highlight=False, soft_wrap=True)
        print_plan(console, plan_run(recipe, data_dir=data_dir))
        return 0
    folder = out or Path("runs/reproduce") / f"{row.id.replace('/', '_')}{'_scaled' if scaled else ''}"
    result = ledger.reproduce(row, recipe, folder, data_dir=data_dir, download=download)
    if not result.completed:
        return 130
    printed = "; ".join(ledger.show_printed(metric, value) for metric, value in row.trained.items())
    console.print(f"kept in {folder}, with its record; the paper prints {printed}", highlight=False, soft_wrap=True)
    return 0


def _page(folder: Path, into: Path | None) -> int:
    if not folder.is_dir():
        raise FileNotFoundError(f"--table is for a folder of results, there is none at {folder}")
    page = ledger.render(ledger.load_results(folder))
    if into is None:
        sys.stdout.write(page)
    else:
        write_text(into, page)
    return 0


def _list(console: Console, folder: Path) -> int:
    results = ledger.load_results(folder)
    table = Table("row", "paper", "status", box=None, padding=(0, 2, 0, 0))
    for row in ledger.list_rows():
        levels: dict[str, list[str]] = {}
        for metric, value in row.figures.items():
            levels.setdefault(ledger.status(row, metric, results).value, []).append(ledger.show_printed(metric, value))
        for level, figures in levels.items():
            table.add_row(row.id, "; ".join(figures), level)
    console.print(table)
    if not results:
        console.print(f"no records in {folder}: nothing counts as trained", highlight=False)
    return 0


def _show_counts(console: Console, row: ledger.Row) -> None:
    for metric, count in row.counts.items():
        ours, printed = ledger.show(metric, count.compute()), ledger.show_printed(metric, row.figures[metric])
        console.print(f"{metric}: {ours}, in print {printed} ({count.test})", highlight=False, soft_wrap=True)
