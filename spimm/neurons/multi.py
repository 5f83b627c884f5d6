"""Several LIFs on one input that differ in their thresholds."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from typing import TypeVar

import torch
from torch import Tensor, nn

from spimm.kernels import lif, multi_lif
from spimm.kernels.multi_lif import MAX_THRESHOLDS
from spimm.neurons.base import BINARY, Neuron, SpikeOutput
from spimm.neurons.by_itself import fusible, runs_by_itself

ResultT = TypeVar("ResultT")


@fusible
class MultiLIF(nn.Module):
    """n LIFs with thresholds of their own, in one pass: MBPL and parallel RL (Liao et al. 2025, SpikeAtConv, eq. 4, 3).

    "sum": their number of spikes, [T, B, C, H, W] with 0..n; "concat": [T, B, n C, H, W], branch after branch. `neuron`
    gives everything but the thresholds. A neuron with hooks or with a forward of its own is called once for each
    threshold, in their order, and has that threshold meanwhile.
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
        if runs_by_itself(self.neuron):
            return _combined(list(self._each(lambda neuron, _: neuron(x, num_steps))), combine)
        return multi_lif(x, self.neuron.dynamics(), self.thresholds, num_steps=num_steps, combine=combine)  # type: ignore[arg-type]

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Output and potentials of one step. x: [B, C, ...], state: [n, B, C, ...] or None for rest.

        ValueError for a state of another number of neurons.
        """
        before = [None] * len(self.thresholds) if state is None else list(state)
        if len(before) != len(self.thresholds):
            raise ValueError(f"state has {len(before)} potentials; expected {len(self.thresholds)}, one a threshold")
        if runs_by_itself(self.neuron) or type(self.neuron).step is not Neuron.step:
            spikes, potentials = zip(*self._each(lambda neuron, index: neuron.step(x, before[index])), strict=True)
        else:
            settings = [replace(self.neuron.dynamics(), threshold=threshold) for threshold in self.thresholds]
            runs = (lif(x.unsqueeze(0), *one) for one in zip(settings, before, strict=True))
            spikes, potentials = zip(*((fired[0], v) for fired, v in runs), strict=True)
        return _combined([part.unsqueeze(0) for part in spikes], self.combine)[0], torch.stack(potentials)

    def _each(self, use: Callable[[Neuron, int], ResultT]) -> Iterator[ResultT]:
        """What `use` makes of the neuron and the number of each threshold, while the neuron has that threshold."""
        for index, threshold in enumerate(self.thresholds):
            with _threshold_of(self.neuron, threshold):
                result = use(self.neuron, index)
            yield result

    def extra_repr(self) -> str:
        return f"thresholds={self.thresholds}, combine={self.combine!r}"


def _combined(branches: list[Tensor], combine: str) -> Tensor:
    """[T, B, C, ...] each -> their sum, or [T, B, n C, ...] with the memory order (T, B, ..., n C)."""
    if combine == "sum":
        return reduce(torch.add, branches)
    return torch.cat([branch.movedim(2, -1) for branch in branches], -1).movedim(-1, 2)


@contextmanager
def _threshold_of(neuron: Neuron, threshold: float) -> Iterator[None]:
    """Within it the neuron has that threshold, which is found before one that is learnt."""
    settings = vars(neuron)
    before = {key: settings[key] for key in ("threshold",) if key in settings}
    settings["threshold"] = threshold
    try:
        yield
    finally:
        del settings["threshold"]
        settings |= before
