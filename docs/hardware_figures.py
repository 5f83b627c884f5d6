"""Table and figure of hardware.md: `python docs/hardware_figures.py SOURCE`, a trace.json or the folder of a run.

Prints a row of the table for each placement and delivery, and draws docs/figures/mesh.png. For a run, 256 test images
are recorded; their data set is found by the environment variable SPIMM_DATA.
"""

import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import torch

from spimm.analyze import Trace, record, save_plot
from spimm.cli.subject import SubjectOptions
from spimm.hardware import Delivery, Placement, plot_mesh, simulate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE = Path(__file__).parent / "figures" / "mesh.png"
IMAGES, BATCH = 256, 64
COLOURS = 128
"""Of the file: fewer make it smaller."""


@torch.no_grad()
def trace_of(source: Path) -> Trace:
    """What a file holds, or what a trained model does on test images."""
    if source.is_file():
        return Trace.from_json(source.read_text(encoding="utf-8"))
    loaded = SubjectOptions(run=source).load(BATCH)
    with record(loaded.model, model_name=loaded.recipe.model) as recorder:
        for images, _ in islice(loaded.test_loader().iterate(0), IMAGES // BATCH):
            loaded.model(images)
    return recorder.trace()


def table(trace: Trace) -> Iterable[str]:
    """Lines of Markdown, a row for each placement and delivery on the smallest square mesh."""
    yield "| placement | delivery | hops a spike | to one core | µJ a frame | to one core | busiest link | µs |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    for delivery in get_args(Delivery):
        for placement in get_args(Placement):
            result = simulate(trace, placement=placement, delivery=delivery)
            numbers = (
                f"{result.hops_per_spike:.2f}",
                f"{result.traffic.mean_distance:.2f}",
                f"{result.energy.total:.2f}",
                f"{result.energy_to_one.total:.2f}",
                f"{result.congestion.peak:.0%}",
                f"{result.latency.total:.0f}",
            )
            yield f"| {placement} | {delivery} | {' | '.join(numbers)} |"


def draw(trace: Trace) -> "Figure":
    """The network placed for the fewest hops."""
    return plot_mesh(simulate(trace))


def write(figure: "Figure") -> Path:
    """Writes FIGURE."""
    return save_plot(figure, FIGURE, dpi=130, colours=COLOURS)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/hardware_figures.py TRACE.json|RUN")
    recorded = trace_of(Path(sys.argv[1]))
    print(*table(recorded), sep="\n")
    path = write(draw(recorded))
    print(f"{path.relative_to(FIGURE.parents[1])}: {path.stat().st_size / 1000:.0f} kB")
