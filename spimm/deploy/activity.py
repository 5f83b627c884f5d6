"""How much of a network of spike times is active, and when: with the dynamic threshold, without it, and as a ReLU1 one.

The figures are those of Wei et al. 2023, Figs. 5 and 6.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spimm.deploy.causal import run_causal
from spimm.deploy.ttfs import run_closed_form, spiking_chain_of
from spimm.neurons import spike_times


@dataclass(frozen=True)
class LayerActivity:
    """Neurons of a layer, in front of its pool, and how many of them are active: the mean over images."""

    layer: str
    neurons: int
    active_ann: float
    """Activation above 0 in the ReLU1 network."""
    active_dynamic: float
    """Spikes with the dynamic firing threshold, each neuron at most one."""
    active_constant: float
    """Spikes with a constant threshold."""

    @property
    def inactive(self) -> dict[str, float]:
        """Shares of the neurons, in [0, 1]: "ann", "dynamic", "constant"."""
        active = {"ann": self.active_ann, "dynamic": self.active_dynamic, "constant": self.active_constant}
        return {kind: 1 - count / self.neurons for kind, count in active.items()}


@dataclass(frozen=True)
class Raster:
    """The spikes of a layer for one image: absolute times, and neurons by their index scaled to [0, 1], each [S]."""

    layer: str
    times: Tensor
    neurons: Tensor


def compare_activity(
    model: nn.Module, images: Iterable[Tensor], *, twin: nn.Module | None = None, threshold: float = 1.0
) -> tuple[LayerActivity, ...]:
    """Active neurons of each layer, the input code's first. images: batches [N, C, H, W].

    `twin`: the ReLU1 network, by default one with the model's own weights; `threshold`: the constant one. Raises
    ValueError where there is no image, and where the twin has other layers.
    """
    spiking_chain_of(model)
    totals: dict[str, Tensor] = {}
    sizes: dict[str, int] = {}
    count = 0
    for batch in images:
        ordinary = run_closed_form(model, batch, relu1=True) if twin is None else run_closed_form(twin, batch)
        dynamic, constant = run_closed_form(model, batch), run_causal(model, batch, threshold=threshold)
        if list(ordinary.spikes) != list(dynamic.spikes):
            raise ValueError(f"the twin has the layers {list(ordinary.spikes)}; wanted {list(dynamic.spikes)}")
        for layer, spikes in dynamic.spikes.items():
            kinds = (ordinary.spikes[layer][0] > 0, spikes[1] > 0, constant.times[layer].isfinite())
            active = torch.stack([kind.sum() for kind in kinds]).double()
            totals[layer] = totals.get(layer, 0) + active
            sizes[layer] = spikes[0, 0].numel()
        count += len(batch)
    if not count:
        raise ValueError("there is no image; wanted one or more")
    return tuple(LayerActivity(layer, sizes[layer], *(total / count).tolist()) for layer, total in totals.items())


def raster_dynamic(model: nn.Module, image: Tensor) -> tuple[Raster, ...]:
    """Spikes of one image [C, H, W] with the dynamic threshold: layer l, the input code being 0, has [l, l + 1] T_w."""
    window = spiking_chain_of(model).window
    spikes = run_closed_form(model, image.unsqueeze(0)).spikes
    return tuple(
        _raster(layer, number * window + spike_times(planes, window))
        for number, (layer, planes) in enumerate(spikes.items())
    )


def raster_constant(model: nn.Module, image: Tensor, *, threshold: float = 1.0) -> tuple[Raster, ...]:
    """Spikes of one image [C, H, W] with a constant threshold and without windows."""
    times = run_causal(model, image.unsqueeze(0), threshold=threshold).times
    return tuple(_raster(layer, when) for layer, when in times.items())


def _raster(layer: str, times: Tensor) -> Raster:
    flat = times.flatten()
    (fired,) = flat.isfinite().nonzero(as_tuple=True)
    return Raster(layer, flat[fired], fired.double() / max(1, len(flat) - 1))
