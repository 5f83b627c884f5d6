"""Trace: what a recorded model did, layer by layer, without the model. Averages over all recorded samples and steps."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from spimm.files import write_text
from spimm.words import counted

Shape = tuple[int, ...]
Values = Literal["silent", "spikes", "integers", "reals"]
FORMAT = "spimm-trace-3"


@dataclass(frozen=True)
class Input:
    """Values of one input of a layer."""

    name: str
    shape: Shape
    """Of one step of one sample."""
    nonzero: float
    """Fraction of the values that are not 0."""
    mean: float
    magnitude: float
    """Mean of |value|: for integers the number of spikes a value stands for."""
    histogram: tuple[float, ...]
    """Fractions of the values with |value| = 0, 1, 2, ... 15, and 16 or more. Empty unless all values are integers."""

    @property
    def integers(self) -> bool:
        """Whether every value seen is an integer: spikes, sums of spikes, event counts."""
        return bool(self.histogram)

    @property
    def values(self) -> Values:
        """What was seen: silent (0 alone, which tells nothing), spikes (0 and 1), integers, or reals."""
        if not self.integers:
            return "reals"
        if not self.nonzero:
            return "silent"
        return "integers" if any(self.histogram[2:]) or self.mean < self.magnitude else "spikes"


@dataclass(frozen=True)
class Product:
    """A part of a layer's arithmetic: additions, or multiply-accumulates where the input is real-valued."""

    name: str
    dense: int
    """Operations per step and sample if no value were 0. Bias and batch norm fold away and are not counted."""
    gate: str
    """The input whose non-zero values cause the operations."""
    paired: float | None
    """Fraction of `dense` left if zeros of the other operand are skipped too; None if that is no spike train."""
    undivided: int | None = None
    """`dense` with one attention head as wide as all channels, N D^2 in place of N D d; None: the same."""
    softmax: bool = False
    """One of the two products around a softmax."""


@dataclass(frozen=True)
class SpikeTimes:
    """When neurons fire that fire once: 0 is where their window starts, 1 where it ends. Of all their spikes."""

    mean: float
    at_start: float
    """Fraction that comes at the very start, the potential having reached the threshold already."""
    histogram: tuple[float, ...]
    """Fractions in equal parts of the window; a spike between two belongs to the later one."""


@dataclass(frozen=True)
class Layer:
    """A convolution, linear layer, attention core or neuron."""

    name: str
    kind: str
    """conv, linear, attention or neuron; other kinds can be registered with `ops.probe`."""
    input_shape: Shape
    """Of one step of one sample, as `output_shape`."""
    output_shape: Shape
    steps: int
    """Different steps computed for a sample; 1 for what is shared by all steps."""
    inputs: tuple[Input, ...] = ()
    products: tuple[Product, ...] = ()
    step_rates: tuple[float, ...] = ()
    """Neurons only: fraction of outputs that are spikes, for each time step."""
    channel_rates: tuple[float, ...] = ()
    """Neurons only: the same for each channel (head, for a token mask), over all steps."""
    silent: float | None = None
    """Neurons only: fraction of channels (heads, for a token mask) that never fired; `saturated`: that always did."""
    saturated: float | None = None
    times: SpikeTimes | None = None
    """Neurons that fire once only, and None where none of them fired."""

    @property
    def dense(self) -> int:
        """Operations per step and sample if no value were 0."""
        return sum(product.dense for product in self.products)

    @property
    def rate(self) -> float:
        """Firing rate of a neuron: spikes per output and step. Raises ValueError for another layer."""
        if not self.step_rates:
            raise ValueError(f"layer {self.name!r} is of kind {self.kind}; only neurons have a firing rate")
        return sum(self.step_rates) / len(self.step_rates)

    def input(self, name: str) -> Input:
        """The input of that name."""
        for entry in self.inputs:
            if entry.name == name:
                return entry
        raise ValueError(f"layer {self.name!r} has no input {name!r}; it has {[entry.name for entry in self.inputs]}")


@dataclass(frozen=True)
class Trace:
    """A recorded model. Layers stand in the order in which they ran."""

    model: str
    num_steps: int
    samples: int
    layers: tuple[Layer, ...]

    def layer(self, name: str) -> Layer:
        """The layer of that name. Raises ValueError if there is none."""
        for entry in self.layers:
            if entry.name == name:
                return entry
        raise ValueError(f"the trace of {self.model} has no layer {name!r}")

    def firing_rates(self) -> dict[str, float]:
        """Spikes per output and step of every neuron layer."""
        return {entry.name: entry.rate for entry in self.layers if entry.step_rates}

    def to_json(self) -> str:
        """JSON text that `from_json` reads back."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, allow_nan=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Trace":
        """The trace that `to_json` wrote. Raises ValueError for any other text."""
        data = json.loads(text)
        found = data.pop("format", None) if isinstance(data, dict) else None
        if found != FORMAT:
            raise ValueError(f"this is no trace: format is {found!r}, wanted {FORMAT!r}")
        try:
            return cls(**{**data, "layers": tuple(_layer(entry) for entry in data["layers"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"this trace is damaged: {error}") from error

    def save(self, path: str | Path) -> Path:
        """Writes the JSON text, whole or not at all. Returns the path."""
        return write_text(path, self.to_json())

    def table(self) -> Table:
        """One row a layer, for a terminal."""
        table = Table(title=f"{self.model}: {counted(self.samples, 'sample')}, {counted(self.num_steps, 'step')}")
        table.add_column("layer", no_wrap=True)
        headings = ["kind", "output", "steps", "Mop / step", "input ≠ 0", "mean |input|", "firing rate", "silent"]
        timed = any(entry.times for entry in self.layers)
        for heading in headings + ["spike time", "at start"] * timed:
            table.add_column(heading, justify="right")
        for entry in self.layers:
            table.add_row(
                entry.name,
                entry.kind,
                "×".join(map(str, entry.output_shape)),
                str(entry.steps),
                f"{entry.dense / 1e6:.3f}" if entry.products else "",
                " ".join(f"{values.nonzero:.3f}" for values in entry.inputs),
                " ".join(f"{values.magnitude:.3f}" for values in entry.inputs),
                f"{entry.rate:.4f}" if entry.step_rates else "",
                f"{entry.silent:.0%}" if entry.silent is not None else "",
                *([f"{entry.times.mean:.3f}", f"{entry.times.at_start:.0%}"] if entry.times else []),
            )
        return table


def _layer(data: dict[str, Any]) -> Layer:
    parts = {
        "inputs": tuple(Input(**{**entry, **_tuples(entry)}) for entry in data["inputs"]),
        "products": tuple(Product(**entry) for entry in data["products"]),
        "times": data["times"] and SpikeTimes(**{**data["times"], **_tuples(data["times"])}),
    }
    return Layer(**{**data, **_tuples(data), **parts})


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) for key, value in data.items() if isinstance(value, list)}
