"""What the papers report: a row is one configuration on one data set with every figure that is printed for it."""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from spimm.train import Recipe, apply_overrides, load_recipe


class Metric(NamedTuple):
    """A figure's name on paper, and its unit."""

    label: str
    unit: str


METRICS = {
    "top1": Metric("top-1", "%"),
    "top5": Metric("top-5", "%"),
    "map50": Metric("mAP50", "%"),
    "miou": Metric("mIoU", "%"),
    "sparsity": Metric("spikes a neuron", ""),
    "energy": Metric("energy", "mJ"),
    "frame_energy": Metric("energy a frame", "µJ"),
    "saved": Metric("energy saved", "%"),
    "compared_energy": Metric("energy a frame compared with", "µJ"),
    "gained": Metric("accuracy gained", "%"),
    "q_rate": Metric("firing rate of q", ""),
    "k_rate": Metric("firing rate of k", ""),
    "mask_rate": Metric("firing rate of A_t", ""),
    "masked_rate": Metric("firing rate of X'", ""),
    "proj_rate": Metric("firing rate of X''", ""),
    "expand_rate": Metric("firing rate of SMLP 1", ""),
    "reduce_rate": Metric("firing rate of SMLP 2", ""),
    "params": Metric("parameters", "M"),
    "truenorth": Metric("TrueNorth", ""),
    "spinnaker": Metric("SpiNNaker", ""),
    "qkta_memory": Metric("QKTA", "MB"),
    "ssa_memory": Metric("SSA", "MB"),
    "inference_time": Metric("inference", "s"),
    "training_time": Metric("training", "s"),
    "time_ratio": Metric("time", "x"),
}


DATASETS = {
    "imagenet": "ImageNet-1k",
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "cifar10dvs": "CIFAR10-DVS",
    "dvs128": "DVS128 Gesture",
    "hardvs": "HAR-DVS",
    "coco": "COCO 2017",
    "ade20k": "ADE20K",
    "voc2012": "VOC 2012",
    "module": "one module",
    "chip": "a chip",
    "coding": "spike codes",
}
"""Data sets of the papers, and what stands in their place, by the second part of a row's id."""


@dataclass(frozen=True)
class Setup:
    """A recipe by name with changes as key=value."""

    recipe: str
    changes: tuple[str, ...] = ()

    def resolve(self) -> Recipe:
        """The recipe with its changes. ValueError for a name or a change that is not known."""
        return apply_overrides(load_recipe(self.recipe), self.changes)


@dataclass(frozen=True)
class Count:
    """A figure that follows without training: how, and the test that holds it."""

    compute: Callable[[], float]
    test: str
    """`FILE::FUNCTION` in the repository."""


@dataclass(frozen=True)
class Row:
    """One line of a paper. `id` is system/data/configuration."""

    id: str
    what: str
    """The configuration in a few words."""
    source: str
    """Where in the paper."""
    figures: Mapping[str, float]
    """Metric -> printed value in the unit of METRICS; nan where training is printed not to converge."""
    full: Setup | None = None
    """The published training; None where the library has no such task, model or data."""
    scaled: Setup | None = None
    """The same on small data, for minutes of one core."""
    counts: Mapping[str, Count] = field(default_factory=dict)
    """Metric -> how it is counted; the others need a trained network."""
    needs: str = ""
    """What reproducing it takes beside what the recipe says, or what is missing."""

    def __post_init__(self) -> None:
        if len(self.id.split("/")) != 3 or self.data not in DATASETS:
            raise ValueError(f"id is {self.id!r}; wanted system/data/configuration with a data set of DATASETS")
        unknown = (set(self.figures) | set(self.counts)) - set(METRICS)
        if unknown or set(self.counts) - set(self.figures):
            raise ValueError(f"{self.id} has figures {sorted(self.figures)} and counts {sorted(self.counts)}")

    @property
    def system(self) -> str:
        return self.id.split("/")[0]

    @property
    def data(self) -> str:
        """Key of DATASETS."""
        return self.id.split("/")[1]

    @property
    def trained(self) -> dict[str, float]:
        """The figures that need a trained network."""
        return {metric: value for metric, value in self.figures.items() if metric not in self.counts}


def show(metric: str, value: float, *, signed: bool = False) -> str:
    """A value of ours with its unit: % with 2 digits behind the point, parameters with 3, others with up to 4."""
    digits = 2 if METRICS[metric].unit == "%" else 3 if metric == "params" else 4
    number = f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}"
    if METRICS[metric].unit != "%":
        number = number.rstrip("0").rstrip(".")
    return f"{number} {METRICS[metric].unit}".rstrip()


def show_printed(metric: str, value: float) -> str:
    """A value of a paper with its unit; nan did not converge."""
    return "no convergence" if math.isnan(value) else f"{value:.10g} {METRICS[metric].unit}".rstrip()


def find_row(rows: Sequence[Row], name: str) -> Row:
    """The row of that id. ValueError that names the nearest ones."""
    for row in rows:
        if row.id == name:
            return row
    near = difflib.get_close_matches(name, [row.id for row in rows], n=3, cutoff=0.4)
    hint = f"nearest: {', '.join(near)}" if near else "'spimm reproduce' lists them"
    raise ValueError(f"unknown row {name!r}; {hint}")
