"""The table of accuracies in README.md, made of the records: `python docs/accuracy.py` brings it up to date.

Every figure is that of the last epoch; of several runs, the mean.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from spimm.files import write_text
from spimm.models import model_card
from spimm.reproduce import Result, load_results

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
START, END = "<!-- accuracies: python docs/accuracy.py -->", "<!-- accuracies end -->"
HEAD = "| data | model | parameters | T | top-1 | time |\n|---|---|---:|---:|---:|---|"


class Line(NamedTuple):
    """A record, what its data is called, the record it starts from, and what else is said of it."""

    record: str
    data: str
    start: str | None = None
    more: str = ""


LINES = (
    Line("digits", "digits (8x8)"),
    Line("mnist", "MNIST"),
    Line("ttfs_mnist", "MNIST", more="{sparsity:.2f} spikes a neuron, 3 seeds"),
    Line("cifar10_jpeg", "CIFAR-10 (JPEG copy)"),
    Line("metaspikeformer_cifar10_jpeg", "CIFAR-10 (JPEG copy)"),
    Line("metaspikeformer_cifar10_jpeg_t4", "CIFAR-10 (JPEG copy)", "metaspikeformer_cifar10_jpeg"),
    Line("spikeatconv_cifar10_jpeg", "CIFAR-10 (JPEG copy)"),
    Line("ttfs_vgg11_cifar10_jpeg", "CIFAR-10 (JPEG copy)", "ttfs_vgg11_cifar10_jpeg_ann"),
    Line("ttfs_vgg16_cifar10_jpeg", "CIFAR-10 (JPEG copy)", "ttfs_vgg16_cifar10_jpeg_ann"),
    Line("nmnist", "N-MNIST, 1,100 recordings, 5 folds"),
    Line("nmnist_qkformer", "N-MNIST, 1,100 recordings, 5 folds"),
)


def table(results: Iterable[Result]) -> Iterator[str]:
    """The lines of the table, of those of LINES that have a record."""
    found = {result.record.name: result for result in results}
    yield HEAD
    before = None
    for line in LINES:
        if line.record in found:
            yield _row(line, found, '"' if line.data == before else line.data)
            before = line.data


def _row(line: Line, found: dict[str, Result], data: str) -> str:
    result = found[line.record]
    recipe, card = result.recipe, model_card(result.recipe.model)
    steps = recipe.model_options.get("num_steps", recipe.frames) or card.num_steps
    model, time = f"`{card.name}`", f"{recipe.total_epochs} epochs, {_minutes(result.minutes)}"
    if line.start is not None:
        first = found[line.start]
        model += f" from `{first.recipe.model}` ({first.figures['top1']:.2f} %)"
        time = f"{first.recipe.total_epochs} + {recipe.total_epochs} epochs, {_minutes(first.minutes + result.minutes)}"
    model += f", {line.more.format(**result.figures)}" if line.more else ""
    time += " a fold" if recipe.fold is not None else ""
    return f"| {data} | {model} | {card.params:,} | {steps} | {result.figures['top1']:.2f} % | {time} |"


def _minutes(minutes: float) -> str:
    return f"{minutes:.0f} min" if minutes >= 2 else f"{60 * minutes:.0f} s"


def put(document: str, lines: Iterable[str]) -> str:
    """The document with the table between START and END. ValueError without the two."""
    before, start, rest = document.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"the document lacks the lines {START!r} and {END!r}")
    return "\n".join([f"{before}{START}", *lines, f"{END}{after}"])


if __name__ == "__main__":
    made = table(load_results(ROOT / "docs" / "results"))
    write_text(README, put(README.read_text(encoding="utf-8"), made))
