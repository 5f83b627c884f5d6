"""Energy of an inference, from the counts of a trace and a table of costs. Pure: no model, no tensor.

E = E_MAC FLOP(first layer) + E_AC sum over layers of SOP_l, with SOP_l = rate_l T FLOP_l and rate_l that of the layer's
input: the form of Zhou et al. 2024 (QKFormer) and of most papers on spiking transformers. The input of a layer decides
what its operations are:

- integers (spikes, sums of spikes, event counts) cause additions (AC), as many as `rate` says;
- real values (images) cost dense multiply-accumulates (MAC), and so do features averaged over time (behind a neuron,
  but in fewer steps), as in front of most classifiers, even where an average happens to be an integer.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from rich.table import Table

from spimm.analyze.constants import HOROWITZ_45NM, Constants
from spimm.analyze.trace import Layer, Product, Trace
from spimm.files import write_text

PICOJOULES_PER_MILLIJOULE = 1e9

FORMULAS: dict[str, str] = {
    "qkformer": "Zhou et al., QKFormer, NeurIPS 2024: first convolution as MAC, SOP = rate x T x FLOP elsewhere; "
    "the classifier on averaged features is added as MAC",
}
"""Name of a formula and where it comes from."""

FirstLayerSteps = Literal["once", "each"]


@dataclass(frozen=True)
class EnergyLine:
    """One product of a layer. Counts and energies are those of one sample, over all its steps."""

    layer: str
    product: str
    group: str
    """input (in front of the first neuron), classifier (a linear layer at the end), else the kind of the layer."""
    operation: Literal["MAC", "AC"]
    dense: int
    """Operations per step if no value were 0."""
    steps: int
    rate: float
    """Operations done over dense ones; above 1 where integers count as several spikes."""
    operations: float
    picojoules: float


@dataclass(frozen=True)
class EnergyReport:
    """Energy per sample, line by line. Totals are in mJ."""

    model: str
    formula: str
    constants: Constants
    count_integers: bool
    first_layer_steps: FirstLayerSteps
    paired: bool
    num_steps: int
    samples: int
    lines: tuple[EnergyLine, ...]

    @property
    def macs(self) -> float:
        """Multiply-accumulates per sample."""
        return sum(line.operations for line in self.lines if line.operation == "MAC")

    @property
    def acs(self) -> float:
        """Additions per sample."""
        return sum(line.operations for line in self.lines if line.operation == "AC")

    @property
    def mac_millijoules(self) -> float:
        return self.macs * self.constants.mac / PICOJOULES_PER_MILLIJOULE

    @property
    def ac_millijoules(self) -> float:
        return self.acs * self.constants.ac / PICOJOULES_PER_MILLIJOULE

    @property
    def millijoules(self) -> float:
        return self.mac_millijoules + self.ac_millijoules

    @property
    def dense_millijoules(self) -> float:
        """The reference: the same layers in an ANN, one pass, every operation a multiply-accumulate."""
        return sum(line.dense for line in self.lines) * self.constants.mac / PICOJOULES_PER_MILLIJOULE

    def groups(self) -> dict[str, float]:
        """mJ of each group, in the order of the layers."""
        totals: dict[str, float] = {}
        for line in self.lines:
            totals[line.group] = totals.get(line.group, 0.0) + line.picojoules / PICOJOULES_PER_MILLIJOULE
        return totals

    def to_json(self) -> str:
        """JSON text: settings, totals and all lines."""
        totals = {
            "macs": self.macs,
            "acs": self.acs,
            "mac_millijoules": self.mac_millijoules,
            "ac_millijoules": self.ac_millijoules,
            "millijoules": self.millijoules,
            "dense_millijoules": self.dense_millijoules,
            "groups": self.groups(),
        }
        report = asdict(self)
        return json.dumps({**report, "totals": totals, "lines": report["lines"]}, allow_nan=False, indent=1)

    def save(self, path: str | Path) -> Path:
        """Writes the JSON text, whole or not at all. Returns the path."""
        return write_text(path, self.to_json())

    def table(self) -> Table:
        """One row a group, for a terminal; the dense reference last."""
        integers = "integers as several spikes" if self.count_integers else "any non-zero value as one spike"
        title = f"{self.model}: energy per sample\n{self.num_steps} steps, {self.samples} samples, {integers}"
        costs = f"{self.constants.name}: MAC {self.constants.mac} pJ, AC {self.constants.ac} pJ"
        table = Table(title=title, caption=costs)
        table.add_column("group")
        for heading in ("dense Mop / step", "MAC, M", "AC, M", "mJ"):
            table.add_column(heading, justify="right")
        for group, total in self.groups().items():
            lines = [line for line in self.lines if line.group == group]
            table.add_row(group, *_cells(lines), f"{total:.6f}")
        table.add_section()
        table.add_row("total", *_cells(self.lines), f"{self.millijoules:.6f}")
        table.add_row("as an ANN, one pass", "", "", "", f"{self.dense_millijoules:.6f}")
        return table


def _cells(lines: Iterable[EnergyLine]) -> list[str]:
    lines = list(lines)
    done = {kind: sum(line.operations for line in lines if line.operation == kind) for kind in ("MAC", "AC")}
    return [f"{count / 1e6:.3f}" for count in (sum(line.dense for line in lines), done["MAC"], done["AC"])]


def energy(
    trace: Trace,
    formula: str = "qkformer",
    *,
    count_integers: bool,
    constants: Constants = HOROWITZ_45NM,
    first_layer_steps: FirstLayerSteps = "once",
    paired: bool = False,
) -> EnergyReport:
    """Energy per sample.

    `count_integers`: the value 2 causes two additions where one spike causes one; otherwise every non-zero value causes
    one. `first_layer_steps`: layers on a static image run `once`, or at `each` step as if the image were repeated.
    `paired`: in k^T v of spiking attention zeros of v are skipped as well; otherwise the spikes of k alone count, and
    the energy is linear in the rates. Raises ValueError for an unknown formula or setting.
    """
    if formula not in FORMULAS:
        raise ValueError(f"unknown energy formula {formula!r}; known ones are {', '.join(FORMULAS)}")
    if first_layer_steps not in get_args(FirstLayerSteps):
        raise ValueError(f"first_layer_steps is {first_layer_steps!r}; wanted one of {get_args(FirstLayerSteps)}")
    lines = []
    for layer, group in _grouped(trace.layers):
        repeated = group == "input" and first_layer_steps == "each" and layer.steps == 1
        steps = trace.num_steps if repeated else layer.steps
        averaged = group != "input" and layer.steps < trace.num_steps
        for product in layer.products:
            if averaged or not layer.input(product.gate).integers:
                operation, rate = "MAC", 1.0
            else:
                operation, rate = "AC", _rate(layer, product, count_integers=count_integers, paired=paired)
            count = rate * steps * product.dense
            lines.append(
                EnergyLine(
                    layer=layer.name,
                    product=product.name,
                    group=group,
                    operation=operation,
                    dense=product.dense,
                    steps=steps,
                    rate=rate,
                    operations=count,
                    picojoules=count * (constants.mac if operation == "MAC" else constants.ac),
                )
            )
    return EnergyReport(
        model=trace.model,
        formula=formula,
        constants=constants,
        count_integers=count_integers,
        first_layer_steps=first_layer_steps,
        paired=paired,
        num_steps=trace.num_steps,
        samples=trace.samples,
        lines=tuple(lines),
    )


def _grouped(layers: tuple[Layer, ...]) -> Iterator[tuple[Layer, str]]:
    """Layers that compute, each with its group."""
    first_neuron = next((index for index, layer in enumerate(layers) if layer.kind == "neuron"), 1)
    for index, layer in enumerate(layers):
        if index < first_neuron:
            yield layer, "input"
        elif index == len(layers) - 1 and layer.kind == "linear":
            yield layer, "classifier"
        else:
            yield layer, layer.kind


def _rate(layer: Layer, product: Product, *, count_integers: bool, paired: bool) -> float:
    """Additions done over dense ones."""
    if paired and product.paired is not None:
        return product.paired
    gate = layer.input(product.gate)
    return gate.magnitude if count_integers else gate.nonzero
