"""A model and some batches in, a trace and its energies out."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spimm.analyze.energy import energy, find_formula
from spimm.analyze.energy_report import EnergyReport, FirstLayerSteps
from spimm.analyze.record import record
from spimm.analyze.trace import Trace
from spimm.weights import say_untrained


class Analysis(NamedTuple):
    """What was recorded, and the energy under both readings of integers."""

    trace: Trace
    energy: EnergyReport
    """A non-zero value causes one addition per synapse."""
    integer_energy: EnergyReport
    """A value of n causes n additions per synapse (`count_integers`)."""


@torch.no_grad()
def analyze(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    model_name: str | None = None,
    formula: str = "qkformer",
    first_layer_steps: FirstLayerSteps = "once",
) -> Analysis:
    """Runs the batches, images [B, C, H, W] or sequences [B, T, C, H, W], in eval mode where the model is.

    The modes of the model's modules are restored. A model with random weights is named in the log. Raises ValueError if
    there is no batch, or no formula of that name.
    """
    find_formula(formula)
    say_untrained(model, model_name or type(model).__name__)
    weight = next(model.parameters(), None)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with record(model, model_name=model_name) as recorder:
            for batch in batches:
                model(batch if weight is None else batch.to(weight.device))
    finally:
        for module, training in modes.items():
            module.training = training
    trace = recorder.trace()
    plain, counted = (
        energy(trace, formula, count_integers=count_integers, first_layer_steps=first_layer_steps)
        for count_integers in (False, True)
    )
    return Analysis(trace, plain, counted)
