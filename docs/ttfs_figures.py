"""Draws the figures of ttfs.md into docs/figures, of a trained network:

    python docs/ttfs_figures.py [RUN] [--twin RUN] [--only FIGURE ...]

Without a run it takes the weights for MNIST that ship. `--twin`: the ordinary network that is compared with, else the
same weights. The data set is found by the environment variable SPIMM_DATA. Minutes for a VGG: the network without the
dynamic threshold has to sort the input of each neuron.
"""

import argparse
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from spimm.analyze import plot_inactive, plot_potentials, plot_raster, plot_spike_times, record, save_plot
from spimm.cli.subject import SubjectOptions
from spimm.deploy import compare_activity, raster_constant, raster_dynamic, run_causal
from spimm.train import load_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parent / "figures"
IMAGES, COMPARED, BATCH = 512, 32, 32
"""Test images whose spike times are counted, those of them that also run without the dynamic threshold, a batch."""


class Subject(NamedTuple):
    """A network, its name, batches of test images, and the ReLU1 network it is compared with if not its own weights."""

    name: str
    model: nn.Module
    batches: list[Tensor]
    twin: nn.Module | None = None


def subject(run: Path | None, twin: Path | None = None) -> Subject:
    """The network of a run or the one that ships, and its twin."""
    options = SubjectOptions(run=run) if run else SubjectOptions(model="ttfs_mnist_cnn", pretrained=True)
    loaded = options.load(BATCH)
    batches = [images for images, _ in islice(loaded.test_loader().iterate(0), IMAGES // BATCH)]
    return Subject(loaded.recipe.model, loaded.model, batches, load_run(twin)[1] if twin else None)


def neurons(of: Subject) -> "Figure":
    """Potentials of some neurons on the same seven spikes. No network is needed."""
    times = torch.tensor([0.05, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9])
    weights = torch.tensor(
        [
            [0.5, 0.4, 0.3, 0.6, 0.2, 0.1, 0.4],
            [0.9, -0.4, 0.8, 0.2, 0.4, 0.3, -0.6],
            [0.2, 0.3, -0.2, 0.3, 0.4, 0.5, 0.2],
            [0.5, 0.1, 0.4, -0.6, 0.1, -0.1, -0.3],
            [-0.4, 0.3, -0.3, 0.4, -0.2, 0.6, 0.6],
            [-0.2, -0.3, 0.1, -0.2, 0.1, -0.2, 0.1],
            [0.6, 0.5, 0.2, -0.7, -0.9, -0.3, -0.5],
            [-0.5, 0.1, -0.4, 0.2, 0.2, 0.3, 0.3],
        ]
    )
    return plot_potentials(times, weights)


def spike_times(of: Subject) -> "Figure":
    """When each layer fires, over all images."""
    with record(of.model, model_name=of.name) as recorder, torch.no_grad():
        for batch in of.batches:
            of.model(batch)
    return plot_spike_times(recorder.trace())


def raster(of: Subject) -> "Figure":
    """The first test image, with the dynamic threshold and without: Fig. 5."""
    image = of.batches[0][0]
    return plot_raster(
        {"dynamic threshold": raster_dynamic(of.model, image), "constant threshold": raster_constant(of.model, image)}
    )


def inactive(of: Subject) -> "Figure":
    """Neurons that stay silent, as an ordinary network, with the dynamic threshold and without: Fig. 6.

    Without it once more until the first output neuron fires, when the class is decided.
    """
    batches = of.batches[: COMPARED // BATCH or 1]
    activity = compare_activity(of.model, batches, twin=of.twin)
    titles = {"ann": "ReLU1", "dynamic": "dynamic threshold", "constant": "constant threshold"}
    shares = {title: {layer.layer: layer.inactive[kind] for layer in activity} for kind, title in titles.items()}
    runs = [run_causal(of.model, batch) for batch in batches]
    decided = torch.cat([-run.logits.amax(1) for run in runs]).unsqueeze(1)
    times = {layer: torch.cat([run.times[layer].flatten(1) for run in runs]) for layer in runs[0].times}
    late = {layer: float((when.isinf() | (when > decided)).double().mean()) for layer, when in times.items()}
    return plot_inactive({**shares, "constant threshold, until the decision": late})


FIGURES: dict[str, Callable[[Subject], "Figure"]] = {
    "ttfs_neurons": neurons,
    "ttfs_spike_times": spike_times,
    "ttfs_raster": raster,
    "ttfs_inactive": inactive,
}
COLOURS = 96
"""Of a file: fewer make it smaller."""


def write(name: str, of: Subject) -> Path:
    """Draws one of FIGURES and writes it."""
    return save_plot(FIGURES[name](of), FOLDER / f"{name}.png", dpi=130, colours=COLOURS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--twin", type=Path)
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES))
    chosen = parser.parse_args()
    shown = subject(chosen.run, chosen.twin)
    for name in chosen.only:
        path = write(name, shown)
        print(f"{path.relative_to(FOLDER.parent)}: {path.stat().st_size / 1000:.0f} kB")
