"""Several LIFs on one input that differ in their thresholds."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from spimm.kernels import Dynamics, lif, multi_lif
from spimm.kernels.multi_lif import MAX_THRESHOLDS
from spimm.neurons.base import BINARY, Neuron, SpikeOutput


class MultiLIF(nn.Module):
    """n LIFs with thresholds of their own, in one pass: MBPL and parallel RL (Liao et al. 2025, SpikeAtConv, eq. 4, 3).

    "sum": their number of spikes, [T, B, C, H, W] with 0..n; "concat": [T, B, n C, H, W], branch after branch. `neuron`
    gives everything but the thresholds.
    """

    def __init__(self, neuron: Neuron, thresholds: Sequence[float], *, combine: str = "sum"):
        super().__init__()
        if combine not in ("sum", "concat"):
            raise ValueError(f"combine is {combine!r}; wanted 'sum' or 'concat'")
        rest = neuron.dynamics().rest
        if not 1 <= len(thresholds) <= MAX_THRESHOLDS or not all(threshold > rest for threshold in thresholds):
            raise ValueError(f"thresholds are {tuple(thresholds)}; wanted 1 to {MAX_THRESHOLDS} above {rest}")
        self.neuron = neuron
        self.thresholds = tuple(map(float, thresholds))
        self.combine = combine

    @property
    def output(self) -> SpikeOutput:
        """Integers up to n, or n times the channels."""
        count = len(self.thresholds)
        if count == 1:
            return BINARY
        return SpikeOutput("integer", count) if self.combine == "sum" else SpikeOutput("concatenated", branches=count)

    def forward(self, x: Tensor, num_steps: int | None = None) -> Tensor:
        return self._fire(x, num_steps, self.combine)

    def branches(self, x: Tensor, num_steps: int | None = None) -> tuple[Tensor, ...]:
        """The spikes of each LIF, [T, B, C, H, W] with 0 and 1."""
        return self._fire(x, num_steps, "concat").chunk(len(self.thresholds), 2)

    def _fire(self, x: Tensor, num_steps: int | None, combine: str) -> Tensor:
        return multi_lif(x, self.neuron.dynamics(), self.thresholds, num_steps=num_steps, combine=combine)  # type: ignore[arg-type]

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Output and potentials of one step. x: [B, C, ...], state: [n, B, C, ...] or None for rest."""
        before = [None] * len(self.thresholds) if state is None else state
        runs = [lif(x.unsqueeze(0), part, v) for part, v in zip(self._parts(), before, strict=True)]
        spikes, potentials = (list(parts) for parts in zip(*runs, strict=True))
        joined = torch.cat(spikes, 2) if self.combine == "concat" else torch.stack(spikes).sum(0)
        return joined[0], torch.stack(potentials)

    def _parts(self) -> list[Dynamics]:
        return [replace(self.neuron.dynamics(), threshold=threshold) for threshold in self.thresholds]

    def extra_repr(self) -> str:
        return f"thresholds={self.thresholds}, combine={self.combine!r}"
