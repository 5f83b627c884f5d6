"""How spike-driven a recorded network was: what the inputs of its matrix products held.

A product whose input is 0 or 1 is additions alone. One with larger integers needs several additions a value, one with
real values multiplications. In attention the input that counts is the one whose spikes cause the additions (see
`Product.gate`); what they add, weights, sums of spikes or a softmax, may be anything.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from rich.table import Table

from spimm.analyze.trace import Trace, Values


@dataclass(frozen=True)
class PurityLine:
    """One product of a layer and the input that causes its operations."""

    layer: str
    product: str
    input: str
    values: Values
    highest: int | None
    """Largest |value| seen, 16 standing for more as well; None for reals."""
    dense: int
    """Operations per step and sample if no value were 0."""


@dataclass(frozen=True)
class Purity:
    """All products of a network, in the order in which they ran."""

    model: str
    lines: tuple[PurityLine, ...]

    def products(self) -> dict[Values, int]:
        """How many products had each kind of input."""
        return {kind: sum(line.values == kind for line in self.lines) for kind in get_args(Values)}

    def shares(self) -> dict[Values, float]:
        """Fraction of the dense operations with each kind of input."""
        total = sum(line.dense for line in self.lines)
        return {
            kind: sum(line.dense for line in self.lines if line.values == kind) / total for kind in get_args(Values)
        }

    def layers(self) -> dict[str, Values]:
        """What each product received; the name of its layer, with that of the product where there are several."""
        names = [line.layer for line in self.lines]
        return {
            line.layer if names.count(line.layer) == 1 else f"{line.layer} {line.product}": line.values
            for line in self.lines
        }

    def table(self) -> Table:
        """One row a product, for a terminal; then the share of each kind of input."""
        table = Table(title=f"{self.model}: inputs of matrix products")
        table.add_column("layer", no_wrap=True)
        for heading in ("product", "input", "values", "highest", "Mop / step"):
            table.add_column(heading, justify="right")
        for line in self.lines:
            highest = "" if line.highest is None else str(line.highest)
            table.add_row(line.layer, line.product, line.input, line.values, highest, f"{line.dense / 1e6:.3f}")
        table.add_section()
        for kind, share in self.shares().items():
            table.add_row(f"{self.products()[kind]} products", "", "", kind, "", f"{share:.1%}")
        return table


def purity(trace: Trace) -> Purity:
    """What the products of a recorded network received. Raises ValueError if it has none."""
    lines = tuple(_lines(trace))
    if not lines:
        raise ValueError(f"the trace of {trace.model} has no matrix product")
    return Purity(trace.model, lines)


def _lines(trace: Trace) -> Iterator[PurityLine]:
    for layer in trace.layers:
        for product in layer.products:
            gate = layer.input(product.gate)
            highest = max((level for level, part in enumerate(gate.histogram) if part), default=None)
            yield PurityLine(layer.name, product.name, gate.name, gate.values, highest, product.dense)
