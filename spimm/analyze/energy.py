"""Energy of an inference, from the counts of a trace and a table of costs. Pure: no model, no tensor.

E = E_MAC FLOP(first layer) + E_AC sum over layers of SOP_l, with SOP_l = rate_l T FLOP_l and rate_l that of the layer's
input: the form of Zhou et al. 2024 (QKFormer) and of most papers on spiking transformers. The input of a layer decides
what its operations are:

- integers (spikes, sums of spikes, event counts) cause additions (AC), as many as `rate` says;
- real values (images) cost dense multiply-accumulates (MAC), and so do features averaged over time (behind a neuron,
  but in fewer steps), as in front of most classifiers, even where an average happens to be an integer.

With rates that are given, every layer behind the first neuron causes additions, as many as its rate says. A network
without neurons multiplies everywhere.
"""

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from spimm.analyze.constants import HOROWITZ_45NM, Constants
from spimm.analyze.energy_report import EnergyLine, EnergyReport, FirstLayerSteps, Rates
from spimm.analyze.trace import Layer, Product, Trace


@dataclass(frozen=True)
class Formula:
    """How a paper counts."""

    source: str
    undivided: bool = False
    """Products of spikes in attention count N D^2, the full width, and not N D d, the width of a head."""
    softmax_beside: bool = False
    """The products around a softmax are multiply-accumulates beside the total, not within it."""


FORMULAS: dict[str, Formula] = {
    "qkformer": Formula(
        "Zhou et al., QKFormer, NeurIPS 2024: first convolution as MAC, SOP = rate x T x FLOP elsewhere; the "
        "classifier on averaged features is added as MAC"
    ),
    "metaspikeformer": Formula(
        "Yao et al., Spike-driven Transformer V2, ICLR 2024: the same with the products of SDSA-3 and SDSA-4 at full "
        "width; its energies are those of merged convolutions, `deploy.fold(model, merge='dense')`",
        undivided=True,
    ),
    "spikeatconv": Formula(
        "Liao et al., SpikeAtConv, Front. Neurosci. 2025, whose formula is garbled in print and read as QKFormer's; it "
        "has no term for softmax attention, which is counted beside it",
        softmax_beside=True,
    ),
}
"""By name."""


def find_formula(name: str) -> Formula:
    """The formula of that name. Raises ValueError if there is none."""
    if name not in FORMULAS:
        raise ValueError(f"unknown energy formula {name!r}; known ones are {', '.join(FORMULAS)}")
    return FORMULAS[name]


def energy(
    trace: Trace,
    formula: str = "qkformer",
    *,
    count_integers: bool,
    constants: Constants = HOROWITZ_45NM,
    first_layer_steps: FirstLayerSteps = "once",
    paired: bool = False,
    rates: Rates | None = None,
) -> EnergyReport:
    """Energy per sample.

    `count_integers`: the value 2 causes two additions where one spike causes one; otherwise every non-zero value causes
    one. `first_layer_steps`: layers on a static image run `once`, or at `each` step as if the image were repeated.
    `paired`: in k^T v of spiking attention zeros of v are skipped as well; otherwise the spikes of k alone count, and
    the energy is linear in the rates. `rates`: one rate for all layers behind the first neuron, or a rate for each of
    some layers by name; these layers count additions at that rate whatever their inputs were, so that the trace of an
    untrained model will do. Raises ValueError for an unknown formula, setting or layer, and for a negative rate.
    """
    counts = find_formula(formula)
    if first_layer_steps not in get_args(FirstLayerSteps):
        raise ValueError(f"first_layer_steps is {first_layer_steps!r}; wanted one of {get_args(FirstLayerSteps)}")
    given, spiking = _given(trace, counts, rates), _is_spiking(trace)
    lines = []
    for layer, group in _grouped(trace.layers):
        repeated = group == "input" and first_layer_steps == "each" and layer.steps == 1
        steps = trace.num_steps if repeated else layer.steps
        averaged = group != "input" and layer.steps < trace.num_steps
        for product in layer.products:
            dense = product.undivided if counts.undivided and product.undivided is not None else product.dense
            beside = counts.softmax_beside and product.softmax
            if layer.name in given and not beside:
                operation, rate = "AC", given[layer.name]
            elif beside or averaged or not spiking or not layer.input(product.gate).integers:
                operation, rate = "MAC", 1.0
            else:
                operation, rate = "AC", _rate(layer, product, count_integers=count_integers, paired=paired)
            count = rate * steps * dense
            lines.append(
                EnergyLine(
                    layer=layer.name,
                    product=product.name,
                    group=group,
                    operation=operation,
                    dense=dense,
                    steps=steps,
                    rate=rate,
                    operations=count,
                    picojoules=count * (constants.mac if operation == "MAC" else constants.ac),
                    beside=beside,
                )
            )
    return EnergyReport(
        model=trace.model,
        formula=formula,
        constants=constants,
        count_integers=count_integers,
        first_layer_steps=first_layer_steps,
        paired=paired,
        rates=dict(rates) if isinstance(rates, Mapping) else rates,
        num_steps=trace.num_steps,
        samples=trace.samples,
        lines=tuple(lines),
    )


def implied_rate(
    trace: Trace,
    millijoules: float,
    formula: str = "qkformer",
    *,
    constants: Constants = HOROWITZ_45NM,
    first_layer_steps: FirstLayerSteps = "once",
) -> float:
    """The mean rate at which the recorded network would cost so much: a published energy, read backwards.

    (E - E of the layers in front of the first neuron) / (E_AC T sum over the others of FLOP). Raises ValueError for
    less energy than the former take, and if no layer is behind a neuron.
    """
    silent, firing = (
        energy(
            trace,
            formula,
            count_integers=False,
            constants=constants,
            first_layer_steps=first_layer_steps,
            rates=rate,
        ).millijoules
        for rate in (0.0, 1.0)
    )
    if firing == silent:
        raise ValueError(f"no layer of {trace.model} is behind a neuron; no rate follows from an energy")
    if millijoules < silent:
        raise ValueError(f"millijoules is {millijoules}; the first layer of {trace.model} alone takes {silent:.6g}")
    return (millijoules - silent) / (firing - silent)


def _given(trace: Trace, counts: Formula, rates: Rates | None) -> dict[str, float]:
    """The given rate of each layer that has one."""
    if rates is None:
        return {}
    takers = [
        layer.name
        for layer, group in _grouped(trace.layers if _is_spiking(trace) else ())
        if group != "input" and any(not (counts.softmax_beside and product.softmax) for product in layer.products)
    ]
    given: dict[str, float] = dict(rates) if isinstance(rates, Mapping) else dict.fromkeys(takers, rates)
    for name, rate in given.items():
        if name not in takers:
            near = difflib.get_close_matches(name, takers) or [*takers[:3], "..."]
            raise ValueError(f"no layer {name!r} of {trace.model} takes a rate; did you mean {', '.join(near)}?")
        if not 0 <= rate < math.inf:
            raise ValueError(f"the rate of layer {name!r} is {rate}; wanted a number of at least 0")
    return given


def _is_spiking(trace: Trace) -> bool:
    return any(layer.kind == "neuron" for layer in trace.layers)


def _grouped(layers: tuple[Layer, ...]) -> Iterator[tuple[Layer, str]]:
    """Layers, each with its group. Without a neuron the first layer is the input."""
    first_neuron = next((index for index, layer in enumerate(layers) if layer.kind == "neuron"), 1)
    body = len(layers) - sum(layer.kind == "neuron" for layer in layers[-1:])  # of the outputs
    while body and layers[body - 1].kind == "linear":
        body -= 1
    for index, layer in enumerate(layers):
        if index < first_neuron:
            yield layer, "input"
        elif index >= body:
            yield layer, "classifier"
        else:
            yield layer, layer.kind


def _rate(layer: Layer, product: Product, *, count_integers: bool, paired: bool) -> float:
    """Additions done over dense ones."""
    if paired and product.paired is not None:
        return product.paired
    gate = layer.input(product.gate)
    return gate.magnitude if count_integers else gate.nonzero
