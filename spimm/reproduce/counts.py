"""Figures of the papers that are counted: parameters, and energies from printed spikes, steps and hops."""

import torch

from spimm.analyze import PUBLISHED_CODINGS, SPINNAKER, TRUENORTH
from spimm.hardware import frame_energy
from spimm.models import create_model, model_card
from spimm.reproduce.rows import Count

_CODINGS = "tests/analyze/test_neuromorphic.py"
CARDS = "tests/contract/test_models.py::test_parameters_and_sizes_are_those_of_the_card"


def parameters(name: str, test: str = CARDS, **options: object) -> Count:
    """Millions of parameters of a registered model; `test` is the one that holds its count with these options."""

    def compute() -> float:
        if not options:
            return model_card(name).params / 1e6
        with torch.device("meta"):
            model = create_model(name, **options)  # type: ignore[arg-type]
        return sum(parameter.numel() for parameter in model.parameters()) / 1e6

    return Count(compute, test)


def coding_energies(name: str) -> dict[str, Count]:
    """Eq. 11 of Wei et al. 2023 from the printed steps and spikes of a code of PUBLISHED_CODINGS."""
    cost = next(row.cost for row in PUBLISHED_CODINGS if row.cost.name == name)
    test = "test_the_published_energies_follow_from_steps_and_spikes_to_their_last_digit"
    platforms = {"truenorth": TRUENORTH, "spinnaker": SPINNAKER}
    return {
        key: Count(lambda platform=platform: cost.energy(platform), f"{_CODINGS}::{test}")
        for key, platform in platforms.items()
    }


_EQ12 = "tests/hardware/test_cost.py::test_equation_12_with_the_counts_as_printed_and_as_they_must_be"


def chip_energy(spikes: float, hops: float) -> Count:
    """Eq. 12 of Wei et al. 2023, in uJ a frame."""
    return Count(lambda: frame_energy(spikes, hops).total, _EQ12)


def saved_energy(spikes: float, hops: float, compared: float) -> Count:
    """Share in % by which Eq. 12 stays below the energy that the paper compares with, in uJ a frame."""
    return Count(lambda: 100 * (1 - frame_energy(spikes, hops).total / compared), _EQ12)
