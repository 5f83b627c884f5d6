"""What an optimiser carries from step to step, as tensors with names: `exp_avg/head.weight`, `step/head.weight`."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spimm.manifest import CheckpointError
from spimm.train.pieces import local_part

KINDS = {
    "adamw": {"step", "exp_avg", "exp_avg_sq"},
    "adam": {"step", "exp_avg", "exp_avg_sq"},
    "lamb": {"exp_avg", "exp_avg_sq"},
    "sgd": {"momentum_buffer"},
}
"""By the name of the optimiser. Parameters that never had a gradient have none."""
Fetch = Callable[[str, Tensor], Tensor]
"""Name of a stored tensor, and one whose shape, layout and ranks it takes over -> the stored tensor as such."""


def named_weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers themselves by name; of a model that is split over ranks the shards."""
    return model.state_dict(keep_vars=True)


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All moments of `optimizer` over the parameters of `model`."""
    found = {}
    for name, weight in _trained(model, optimizer):
        found |= {f"{kind}/{name}": value for kind, value in optimizer.state.get(weight, {}).items()}
    return found


def group_steps(optimizer: torch.optim.Optimizer) -> list[float]:
    """Steps that each group has counted, as LAMB of timm does; nothing for an optimiser whose groups count none."""
    return [float(group["step"]) for group in optimizer.param_groups if "step" in group]


def set_moments(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    kind: str,
    stored: Mapping[str, Tensor],
    fetch: Fetch,
    steps: list[float],
    source: str,
) -> None:
    """Gives a new optimiser, of the name `kind`, what `moments` and `group_steps` found.

    stored: shapes and dtypes of all tensors there are. CheckpointError for others than this optimiser has.
    """
    trained = dict(_trained(model, optimizer))
    shapes = {f"{part}/{name}": weight.shape for name, weight in trained.items() for part in KINDS[kind]}
    for name, tensor in stored.items():
        shape = torch.Size() if name.startswith("step/") else shapes.get(name)
        if name not in shapes or tensor.shape != shape or tensor.dtype not in (torch.float32, torch.float64):
            raise CheckpointError(f"{source} holds {name:.120} {tuple(tensor.shape)}, which {kind} has not")
    groups = [dict(group) for group in optimizer.state_dict()["param_groups"]]
    if len(steps) not in (0, len(groups)):
        raise CheckpointError(f"{source} counts the steps of {len(steps)} groups, expected {len(groups)}")
    for group, step in zip(groups, steps, strict=False):
        group["step"] = step
    order = {weight: index for index, weight in enumerate(_weights(optimizer))}
    state = {order[weight]: _part(name, weight, KINDS[kind], stored, fetch, source) for name, weight in trained.items()}
    optimizer.load_state_dict({"state": {index: part for index, part in state.items() if part}, "param_groups": groups})


def laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """A copy of `tensor` in the memory order of `like`: fused optimisers walk weights and moments side by side."""
    return torch.empty_like(like, dtype=tensor.dtype).copy_(tensor) if tensor.ndim else tensor.clone()


def _part(
    name: str, weight: Tensor, kinds: set[str], stored: Mapping[str, Tensor], fetch: Fetch, source: str
) -> dict[str, Any]:
    there = {kind for kind in kinds if f"{kind}/{name}" in stored}
    if there and there != kinds:
        raise CheckpointError(f"{source} lacks {min(kinds - there)}/{name}")
    found = {kind: fetch(f"{kind}/{name}", weight.detach()) for kind in sorted(there)}
    for kind, value in found.items():
        if not bool(local_part(value).isfinite().all()):
            raise CheckpointError(f"{source} holds values in {kind}/{name} that are not finite (NaN or infinity)")
    return found


def _trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterable[tuple[str, Tensor]]:
    taken = set(_weights(optimizer))
    for name, weight in named_weights(model).items():
        if weight in taken:
            taken.remove(weight)  # a weight that two modules share counts once
            yield name, weight


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]
