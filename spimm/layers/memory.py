"""What a training step keeps for its backward pass: packed spikes, or nothing but the inputs of checkpointed parts."""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spimm.kernels import Memory
from spimm.layers.conv import SpikeConv2d
from spimm.layers.norm import frozen_statistics


def set_memory(model: nn.Module, memory: Memory) -> None:
    """How every SpikeConv2d of `model` keeps its input: "full", as it is, or "packed", in few bits a value."""
    if memory not in ("full", "packed"):
        raise ValueError(f"memory is {memory!r}; wanted 'full' or 'packed'")
    for module in model.modules():
        if isinstance(module, SpikeConv2d):
            module.memory = memory


def checkpointed(module: nn.Module, *inputs: Any) -> Tensor:
    """module(*inputs), whose inner tensors are computed again in the backward pass instead of being kept.

    Results and gradients are those of an ordinary call; running statistics move once.
    """
    if not torch.is_grad_enabled():
        return module(*inputs)
    return checkpoint(module, *inputs, use_reentrant=False, context_fn=_contexts)


def _contexts() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    """Around the first computation and around those of the backward passes, of which `retain_graph` makes several."""
    return contextlib.nullcontext(), _Recomputing()


class _Recomputing(contextlib.AbstractContextManager[None]):
    """Frozen statistics, entered anew by each backward pass."""

    def __enter__(self) -> None:
        self._frozen = frozen_statistics()
        self._frozen.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._frozen.__exit__(*error)
