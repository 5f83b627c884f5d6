"""The page of the ledger in Markdown: every published row, what is reproduced of it, by which run."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import mean

from spimm.reproduce.match import Status, on_other_data, reductions, status_of_count, status_of_run
from spimm.reproduce.published import SYSTEMS, list_rows
from spimm.reproduce.published.quoted import QUOTED
from spimm.reproduce.records import Result, of_row
from spimm.reproduce.rows import DATASETS, METRICS, Row, show, show_printed
from spimm.train import recipe_facts

INTRO = """\
# What is reproduced
Every figure that the four papers print of their own systems, beside what this library measured. `spimm reproduce
--table docs/results --into docs/reproduction.md` makes the page of `docs/results/records`. A record counts only if its
logs say the same; a row without a record is not claimed.

- **reproduced in full**: trained on the same data and split by the row's own recipe, that of the paper, for at least as
  many epochs; or counted by a test, where nothing has to be trained, and equal to the print in every printed digit. The
  difference is ours minus the paper's.
- **trained otherwise**: the same model on the same data and split, by another rule or another training. What departs
  from the row's recipe is named.
- **scaled down**: fewer epochs, a small model, or a lossy copy of the same images. What was reduced is named; no
  difference is given, since the figures do not compare.
- **counted, not as printed**: counted by a test, and another number than the paper prints.
- **not reachable here**: no record. What it takes is named.

Runs of a row's setup on other data (recordings of N-MNIST for those of CIFAR10-DVS or HAR-DVS, CIFAR-10 for ImageNet)
reproduce nothing of the row. They have tables of their own, without the paper's figures.

Accuracies of ours are those after the last epoch, in brackets the best of any epoch, which is what the papers report as
far as that is known; of several runs, means and then each. Spikes a neuron (on all test images) and energies are those
of `spimm analyze` with the weights that the run kept as its best (until November 2026 those of the best epoch). `spimm
reproduce SYSTEM/ROW` runs a row, `--scaled` on small data; of what is counted it prints the count.
"""
COLUMNS = (
    "row", "paper", "ours", "difference", "status", "reduced, or what it takes", "command", "seed", "commit",
    "hardware, date, minutes a run", "log",
)  # fmt: skip
ELSEWHERE = (
    "setup of", "data, and what was reduced", "ours", "command", "seed", "commit", "hardware, date, minutes a run",
    "log",
)  # fmt: skip
COUNTED = ("row", "figure", "paper", "ours", "difference", "status", "test")
OTHERS = ("record", "recipe", "ours", "command", "seed", "commit", "hardware, date, minutes a run", "log")
Line = tuple[str, ...]


def status(row: Row, metric: str, results: Iterable[Result]) -> Status:
    """How far a figure of a row is reproduced, by what is counted and by the best of the results."""
    if metric in row.counts:
        return status_of_count(row, metric)
    found = {
        status_of_run(row, result.recipe, result.images)
        for result in of_row(results, row.id)
        if metric in result.figures and not on_other_data(row, result.recipe)
    }
    return next((level for level in Status if level in found), Status.OUT)


def render(results: Sequence[Result]) -> str:
    """The whole page."""
    rows = list_rows()
    blocks = [INTRO, _summary(rows, results)]
    for system, (title, paper) in SYSTEMS.items():
        of_system = [row for row in rows if row.system == system]
        lines = (line for row in of_system for line in lines_of(row, results))
        blocks.append(f"## {title}\n{paper}.\n\n{_table(COLUMNS, lines)}")
        elsewhere = [line for row in of_system for line in elsewhere_of(row, results)]
        if elsewhere:
            blocks.append(f"The setups of rows on other data:\n\n{_table(ELSEWHERE, elsewhere)}")
        counts = (line for row in of_system for line in counts_of(row))
        blocks.append(f"Counted, nothing being trained:\n\n{_table(COUNTED, counts)}")
    others = [result for result in results if not result.record.rows]
    if others:
        blocks.append(f"## Results that no paper has\n{_table(OTHERS, map(_other, others))}")
    blocks.append(_quoted())
    return "\n".join(blocks)


def lines_of(row: Row, results: Sequence[Result]) -> Iterator[Line]:
    """Of what has to be trained: a line for each result on the row's images, or one for what it takes."""
    of_this = of_row(results, row.id)
    found = [result for result in of_this if not on_other_data(row, result.recipe)]
    for result in sorted(found, key=lambda result: _rank(row, result)):
        yield _measured(row, result)
    if row.trained and not found:
        yield _missing(row, tried=bool(of_this))


def elsewhere_of(row: Row, results: Sequence[Result]) -> Iterator[Line]:
    """A line for each result of the row's setup on other data."""
    for result in of_row(results, row.id):
        if on_other_data(row, result.recipe):
            shown = [metric for metric in row.trained if metric in result.figures]
            ours = "; ".join(_ours(metric, result) for metric in shown)
            yield _name(row), "; ".join(reductions(row, result.recipe)), ours, *_how(result)


def _rank(row: Row, result: Result) -> int:
    return list(Status).index(status_of_run(row, result.recipe, result.images))


def counts_of(row: Row) -> Iterator[Line]:
    """A line for each figure that is counted."""
    for metric, count in row.counts.items():
        ours, printed = count.compute(), row.figures[metric]
        file, _, name = count.test.partition("::")
        numbers = (show_printed(metric, printed), show(metric, ours), show(metric, ours - printed, signed=True))
        level = status_of_count(row, metric).value
        yield (_name(row), METRICS[metric].label, *numbers, level, f"[{name}](../{file})")


def _measured(row: Row, result: Result) -> Line:
    level = status_of_run(row, result.recipe, result.images)
    shown = [metric for metric in row.trained if metric in result.figures]
    ours = [
        _ours(metric, result) if metric in shown else f"{METRICS[metric].label} not measured" for metric in row.trained
    ]
    differences = (show(metric, result.figures[metric] - row.figures[metric], signed=True) for metric in shown)
    compares = level in (Status.FULL, Status.OWN)
    return (
        _name(row), _printed(row), "; ".join(ours), "; ".join(differences) if compares else "", level.value,
        "; ".join(reductions(row, result.recipe)), *_how(result),
    )  # fmt: skip


def _how(result: Result) -> Line:
    """Command, seeds, commit, where and when, logs."""
    record = result.record
    logs = dict.fromkeys(name for entry in record.entries for name in entry.files.named())
    seeds = ", ".join(dict.fromkeys(str(entry.seed) for entry in record.entries))
    links = ", ".join(f"[{name}](results/{name})" for name in logs)
    return _code(record.command), seeds, _code(record.commit), _where(result), links


def _missing(row: Row, *, tried: bool) -> Line:
    takes, command = [], ""
    if row.full is not None:
        cost = recipe_facts(row.full.recipe).cost.removeprefix("not run; ")
        takes.append(f"{DATASETS[row.data]}; {cost}")
        command = _code(f"spimm reproduce {row.id}")
    takes += [row.needs] if row.needs else []
    takes += ["its `--scaled` run was not made"] if row.scaled is not None and not tried else []
    return (
        _name(row), _printed(row), "", "", Status.OUT.value, "; ".join(takes), command,
        "", "", "", "",
    )  # fmt: skip


def _other(result: Result) -> Line:
    return result.record.name, _code(result.recipe.name), _ours("top1", result), *_how(result)


def _ours(metric: str, result: Result) -> str:
    """The mean, the best epoch's where it is another, and each run's if there are several."""
    text = f"{METRICS[metric].label} {show(metric, result.figures[metric])}"
    if metric == "top1" and result.figures["best_top1"] != result.figures["top1"]:
        text += f" ({show(metric, result.figures['best_top1'])})"
    each = result.each(metric)
    if len(each) == 1:
        return text
    shown = [show(metric, value).removesuffix(" %") for value in each]
    if metric == "top1":
        best = [show(metric, value).removesuffix(" %") for value in result.each("best_top1")]
        shown = [one if one == top else f"{one} ({top})" for one, top in zip(shown, best, strict=True)]
    return f"{text}: {', '.join(shown)}"


def _where(result: Result) -> str:
    record = result.record
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    day = min(entry.date for entry in record.entries)[:10]
    return f"{record.hardware}; {versions}; {day}; {mean(entry.minutes for entry in record.entries):.0f}"


def _name(row: Row) -> str:
    return f"`{row.id.partition('/')[2]}`: {row.what}"


def _printed(row: Row) -> str:
    figures = (f"{METRICS[metric].label} {show_printed(metric, value)}" for metric, value in row.trained.items())
    return f"{'; '.join(figures)} ({row.source})"


def _code(text: str) -> str:
    return f"`{text}`"


def _summary(rows: Sequence[Row], results: Sequence[Result]) -> str:
    """How many figures of each system have which status."""
    table = []
    for system, (title, _) in SYSTEMS.items():
        of_system = [row for row in rows if row.system == system]
        levels = Counter(status(row, metric, results) for row in of_system for metric in row.figures)
        counted = Counter(status(row, metric, results) for row in of_system for metric in row.counts)
        numbers = [levels.pop(Status.FULL, 0), counted[Status.FULL]]
        rest = [levels[level] for level in Status if level is not Status.FULL]
        table.append((title, len(of_system), sum(len(row.figures) for row in of_system), *numbers, *rest))
    others = (level.value for level in Status if level is not Status.FULL)
    heading = ("", "rows", "figures", Status.FULL.value, "of these counted", *others)
    return _table(heading, (tuple(map(str, line)) for line in table))


def _quoted() -> str:
    lines = ["## Quoted, other systems: not reproduced by this library"]
    for system, quoted in QUOTED.items():
        names = "; ".join(f"{data}: {', '.join(found)}" for data, found in quoted.items())
        lines.append(f"- {SYSTEMS[system].title} quotes {sum(map(len, quoted.values()))}. {names}.")
    return "\n".join(lines) + "\n"


def _table(columns: Sequence[str], lines: Iterable[Line]) -> str:
    cells = [columns, ["---"] * len(columns), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"
