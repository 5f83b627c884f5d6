"""Layers of neurons that never or always fire, and channels that are dead: named while a model trains."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spimm.analyze import Layer, Trace, probe, record
from spimm.train.evaluation import Batches

SAMPLES = 32
"""Images on which neurons are watched."""
MANY = 0.5
"""Share of a layer's channels without, or always with, a spike from which on the layer is named."""


NAMED = 5
"""Layers that a sentence names."""
RECOVERED = "fires as it should again"


class Health(NamedTuple):
    """What a look at the neurons gave."""

    record: dict[str, Any]
    """`rate`, spikes per neuron and step; `silent`, share of channels without one; `layers`, what is wrong where."""
    news: list[str]
    """Layers whose condition changed since the last look, a sentence for each condition; the first layers first."""


@dataclass
class HealthWatch:
    """Looks at a model's neurons, on the same few images each time: [B, C, H, W] or [B, T, C, H, W]."""

    images: Tensor
    _known: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, loader: Batches) -> "HealthWatch":
        """One that looks on the first images of `loader`."""
        return cls(next(images[:SAMPLES] for images, _ in loader.iterate(0) if len(images)))

    @torch.no_grad()
    def look(self, model: nn.Module, device: torch.device) -> Health | None:
        """What the neurons of `model`, which is on `device`, do now; None for a model without any.

        The model runs in eval mode; its modes, buffers and random numbers stay as they are.
        """
        if not any(found.kind == "neuron" for module in model.modules() for found in probe(module)):
            return None
        modes = {module: module.training for module in model.modules()}
        model.eval()
        try:
            with record(model, kinds=("neuron",)) as recorder:
                model(self.images.to(device))
        finally:
            for module, training in modes.items():
                module.training = training
        trace = recorder.trace()
        found = conditions(trace)
        now = found | {name: RECOVERED for name in self._known if name not in found}
        changed: dict[str, list[str]] = {}
        for name, condition in now.items():
            if self._known.get(name) != condition:
                changed.setdefault(condition, []).append(name)
        self._known = found
        news = [f"{condition}: {_some(names)}" for condition, names in changed.items()]
        return Health({**_totals(trace), "layers": found}, news)


def conditions(trace: Trace) -> dict[str, str]:
    """What is wrong with the neurons of which layer; nothing for the others."""
    neurons = [layer for layer in trace.layers if layer.step_rates]
    once = any(layer.times for layer in neurons)
    # Output neurons whose potential is read count as firing in a network of spike times.
    judged = [layer for layer in neurons if not (once and layer.times is None and layer.saturated == 1)]
    named = ((layer.name, _condition(layer)) for layer in judged)
    return {name: condition for name, condition in named if condition}


def _condition(layer: Layer) -> str | None:
    assert layer.silent is not None and layer.saturated is not None
    if layer.silent == 1:
        return "never fires"
    if layer.saturated == 1:
        return "always fires"
    if layer.silent >= MANY:
        return "has half of its channels or more silent"
    if layer.saturated >= MANY:
        return "has half of its channels or more always firing"
    return None


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _totals(trace: Trace) -> dict[str, float]:
    neurons = [layer for layer in trace.layers if layer.step_rates]
    sizes = [layer.steps * torch.Size(layer.output_shape).numel() for layer in neurons]
    channels = [len(layer.channel_rates) for layer in neurons]
    return {
        "rate": sum(layer.rate * size for layer, size in zip(neurons, sizes, strict=True)) / sum(sizes),
        "silent": sum((layer.silent or 0) * count for layer, count in zip(neurons, channels, strict=True))
        / sum(channels),
    }
