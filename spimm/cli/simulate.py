"""`spimm simulate`: a model's spikes on a chip of many cores on a mesh."""

from itertools import islice
from pathlib import Path

import torch
import tyro

from spimm.analyze import Trace, record, save_plot
from spimm.cli.console import wide_console
from spimm.cli.subject import SubjectOptions
from spimm.hardware import NEURONS_PER_CORE, Delivery, EnergyCosts, Mesh, Placement, TimeCosts, plot_mesh
from spimm.hardware import simulate as simulate_trace


def simulate(
    subject: tyro.conf.OmitArgPrefixes[SubjectOptions],
    energy: tyro.conf.OmitArgPrefixes[EnergyCosts],
    time: tyro.conf.OmitArgPrefixes[TimeCosts],
    trace: Path | None = None,
    images: int = 256,
    mesh: str | None = None,
    placement: Placement = "hops",
    delivery: Delivery = "multicast",
    neurons_per_core: int = NEURONS_PER_CORE,
    count_input: bool = False,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Traffic, energy and latency on a network-on-chip, e.g. 'spimm simulate runs/digits --mesh 12x12 --out chip'.

    Cuts each layer into cores along its channels, places them on a mesh, and sends the spikes of a frame by XY routes
    to every core of the next layer. Prints a row for each layer, then the totals.

    Args:
        subject: what to simulate.
        energy: what spikes and hops cost.
        time: what windows and hops take.
        trace: a trace.json that 'spimm analyze' wrote, in place of a model.
        images: test images to record.
        mesh: COLUMNSxROWS of cores; by default the smallest square.
        placement: row by row, as a snake, or with the fewest hops that a search finds.
        delivery: one packet for all cores that receive a spike, or one for each.
        neurons_per_core: most neurons of a core.
        count_input: let each input value that is not 0 enter as a packet at the upper left corner.
        seed: of the search.
        out: folder for trace.json, simulation.json and mesh.png.
    """
    wanted = Mesh.parse(mesh) if mesh is not None else None
    recorded = _record(subject, images) if trace is None else _read(trace, subject)
    result = simulate_trace(
        recorded,
        wanted,
        placement=placement,
        delivery=delivery,
        neurons_per_core=neurons_per_core,
        count_input=count_input,
        seed=seed,
        energy_costs=energy,
        time_costs=time,
    )
    console = wide_console()
    console.print(result.table())
    console.print(result.totals())
    if out is not None:
        recorded.save(out / "trace.json")
        result.save(out / "simulation.json")
        save_plot(plot_mesh(result), out / "mesh.png")
        console.print(f"written to {out}", soft_wrap=True)


def _read(path: Path, subject: SubjectOptions) -> Trace:
    if subject.run is not None or subject.model is not None:
        raise ValueError("give either --trace or a model, not both")
    return Trace.from_json(path.read_text(encoding="utf-8"))


@torch.no_grad()
def _record(subject: SubjectOptions, images: int) -> Trace:
    if images < 1:
        raise ValueError(f"images is {images}; wanted at least 1")
    batch = min(images, 64)
    loaded = subject.load(batch)
    with record(loaded.model, model_name=loaded.recipe.model) as recorder:
        for inputs, _ in islice(loaded.test_loader().iterate(0), -(-images // batch)):
            loaded.model(inputs)
    return recorder.trace()
