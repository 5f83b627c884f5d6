"""What an energy came to: lines, totals, JSON and a table."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table

from spimm.analyze.constants import Constants
from spimm.files import write_text
from spimm.words import counted

PICOJOULES_PER_MILLIJOULE = 1e9

FirstLayerSteps = Literal["once", "each"]
Rates = float | Mapping[str, float]
"""A rate for all layers behind the first neuron, or rates of layers by name."""


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
    beside: bool = False
    """Not within the formula's total: softmax attention, where the formula has no term for it."""


@dataclass(frozen=True)
class EnergyReport:
    """Energy per sample, line by line. Totals are in mJ."""

    model: str
    formula: str
    constants: Constants
    count_integers: bool
    first_layer_steps: FirstLayerSteps
    paired: bool
    rates: Rates | None
    """Rates that were given in place of the measured ones."""
    num_steps: int
    samples: int
    lines: tuple[EnergyLine, ...]

    @property
    def counted(self) -> tuple[EnergyLine, ...]:
        """The lines that make up the totals."""
        return tuple(line for line in self.lines if not line.beside)

    @property
    def macs(self) -> float:
        """Multiply-accumulates per sample."""
        return sum(line.operations for line in self.counted if line.operation == "MAC")

    @property
    def acs(self) -> float:
        """Additions per sample."""
        return sum(line.operations for line in self.counted if line.operation == "AC")

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
    def beside_millijoules(self) -> float:
        """Of the lines beside the total."""
        return sum(line.picojoules for line in self.lines if line.beside) / PICOJOULES_PER_MILLIJOULE

    @property
    def dense_millijoules(self) -> float:
        """The reference: all lines in an ANN, one pass, every operation a multiply-accumulate."""
        return sum(line.dense for line in self.lines) * self.constants.mac / PICOJOULES_PER_MILLIJOULE

    def groups(self) -> dict[str, float]:
        """mJ of each group within the total, in the order of the layers."""
        totals: dict[str, float] = {}
        for line in self.counted:
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
            "beside_millijoules": self.beside_millijoules,
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
        steps = counted(self.num_steps, "step")
        title = f"{self.model}: energy per sample, formula {self.formula}\n{steps}, {self._reading()}"
        costs = f"{self.constants.name}: MAC {self.constants.mac} pJ, AC {self.constants.ac} pJ"
        table = Table(title=title, caption=costs)
        table.add_column("group")
        for heading in ("dense Mop / step", "MAC, M", "AC, M", "mJ"):
            table.add_column(heading, justify="right")
        for group, total in self.groups().items():
            lines = [line for line in self.counted if line.group == group]
            table.add_row(group, *_cells(lines), f"{total:.6f}")
        table.add_section()
        table.add_row("total", *_cells(self.counted), f"{self.millijoules:.6f}")
        if beside := [line for line in self.lines if line.beside]:
            table.add_row("beside it, softmax attention", *_cells(beside), f"{self.beside_millijoules:.6f}")
        table.add_row("as an ANN, one pass", "", "", "", f"{self.dense_millijoules:.6f}")
        return table

    def _reading(self) -> str:
        """Which rates these are."""
        if isinstance(self.rates, float | int):
            return f"a given rate of {self.rates:g}"
        given = "" if self.rates is None else f", {counted(len(self.rates), 'layer')} with given rates"
        integers = "integers as several spikes" if self.count_integers else "any non-zero value as one spike"
        return f"{counted(self.samples, 'sample')}, {integers}{given}"


def _cells(lines: Iterable[EnergyLine]) -> list[str]:
    lines = list(lines)
    done = {kind: sum(line.operations for line in lines if line.operation == kind) for kind in ("MAC", "AC")}
    return [f"{count / 1e6:.3f}" for count in (sum(line.dense for line in lines), done["MAC"], done["AC"])]
