"""Steps that would throw a run off its course are not taken."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

WINDOW = 64
"""Steps taken whose medians count."""
LEAST = 16
"""Steps taken before a finite loss or norm can be too large."""
PATIENCE = 10
"""Steps left out one after another that end the run."""


@dataclass(frozen=True)
class GuardState:
    """Losses and norms of the last steps taken, and steps left out in this epoch and in a row."""

    losses: tuple[float, ...]
    norms: tuple[float, ...]
    in_epoch: int
    in_a_row: int


class SpikeGuard:
    """Tells the steps whose loss or gradient norm is more than `factor` times its median over the last steps taken.

    One that is not finite is always told. Spikes of the loss and steps left out: Chowdhery et al. 2022, PaLM, section
    5.1, who left out the batches by hand.
    """

    def __init__(self, factor: float):
        self.factor = factor
        self.skipped_in_epoch = 0
        self.skipped_in_a_row = 0
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._norms: deque[float] = deque(maxlen=WINDOW)

    def refuses(self, loss: float, norm: float) -> bool:
        """Whether the step is to be left out, which is counted; otherwise its loss and norm join the medians."""
        if all(self._usual(value, seen) for value, seen in ((loss, self._losses), (norm, self._norms))):
            self._losses.append(loss)
            self._norms.append(norm)
            self.skipped_in_a_row = 0
            return False
        self.skipped_in_epoch += 1
        self.skipped_in_a_row += 1
        return True

    def end_epoch(self) -> int:
        """Steps left out since the epoch began; the next one begins."""
        skipped, self.skipped_in_epoch = self.skipped_in_epoch, 0
        return skipped

    @property
    def gives_up(self) -> bool:
        """Whether too many steps were left out one after another."""
        return self.skipped_in_a_row >= PATIENCE

    def describe(self, loss: float, norm: float) -> str:
        """The step's loss and gradient norm, beside the medians."""
        seen = f"medians {median(self._losses):.4g} and {median(self._norms):.4g}" if self._losses else "no medians yet"
        return f"loss {loss:.4g}, gradient norm {norm:.4g} ({seen})"

    def state(self) -> GuardState:
        """What a run that goes on needs."""
        seen = tuple(self._losses), tuple(self._norms)
        return GuardState(*seen, in_epoch=self.skipped_in_epoch, in_a_row=self.skipped_in_a_row)

    def restore(self, state: GuardState) -> None:
        """Takes up what `state` returned."""
        self._losses.extend(state.losses)
        self._norms.extend(state.norms)
        self.skipped_in_epoch, self.skipped_in_a_row = state.in_epoch, state.in_a_row

    def _usual(self, value: float, seen: Sequence[float]) -> bool:
        return math.isfinite(value) and (len(seen) < LEAST or value <= self.factor * median(seen))


def copy_buffers(model: nn.Module) -> list[Tensor]:
    """The running statistics of `model`, which a forward pass changes before its loss is known."""
    return [buffer.detach().clone() for buffer in model.buffers()]


@torch.no_grad()
def put_back_buffers(model: nn.Module, before: Sequence[Tensor]) -> None:
    """Gives `model` the buffers that `copy_buffers` gave."""
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.copy_(value)
