"""AdamW, Adam, LAMB and SGD, the parameters that decay, and the learning rate as a function of step and depth."""

import math
from bisect import bisect_right
from typing import Any

import torch
from timm.optim.lamb import Lamb
from torch import Tensor, nn

from spimm.train.config import Recipe


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over the parameters that train; its learning rate is set before every step.

    LAMB (You et al. 2020) is timm's with the trust ratio kept at or below 1, and without its own clipping of gradients:
    `clip_norm` is the only one. AdamW and LAMB decay weights apart from the gradient; Adam and SGD, the latter with
    momentum and without Nesterov's step, add `weight_decay` times the weights to it.

    Only kernels and matrices decay: not biases, not parameters with fewer than two axes (norms, most neuron
    parameters), and not what a module names in a method `no_weight_decay() -> iterable of names`, which is for others,
    such as a position embedding or a threshold of shape [C, 1, 1].

    With `layer_decay` the weights at depth d of D (the model's `layer_depths`) learn at the rate times
    layer_decay^(D - d): `set_learning_rate` knows. ValueError for a model that does not tell of depths.

    Of each step's change to the weights of a neuron, `mean_share` of their mean is kept. Where all inputs are positive,
    as spikes are, gradients of a neuron's weights agree in sign; an optimiser that scales each by its own size moves
    them all by `lr`, and the sum of thousands of inputs by far more: such steps silence neurons for good.
    """
    optimizer = _optimizer(model, recipe)
    if recipe.mean_share < 1:
        _keep_share_of_means(optimizer, recipe.mean_share)
    return optimizer


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    groups = _groups(model, recipe)
    if recipe.optimizer == "lamb":
        return Lamb(groups, lr=recipe.lr, betas=recipe.betas, trust_clip=True, max_grad_norm=None)
    if recipe.optimizer == "sgd":
        fused = recipe.parallel != "fsdp"  # torch has no such step for weights that are split
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, fused=fused)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=recipe.lr, betas=recipe.betas, fused=True)


def _groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """What decays and what does not, in each depth from that of the head to the first if there is layer decay."""
    spared, scales = _declared_names(model), _scales(model, recipe.layer_decay)
    groups: list[dict[str, Any]] = []
    for scale in sorted({1.0, *scales.values()}, reverse=True):
        lower = {"lr_scale": scale} if scales else {}
        decayed, undecayed = [], []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and scales.get(name, 1.0) == scale:
                decays = parameter.ndim >= 2 and not name.endswith("bias") and name not in spared
                (decayed if decays else undecayed).append(parameter)
        groups.append({"params": decayed, "weight_decay": recipe.weight_decay, **lower})
        groups.append({"params": undecayed, "weight_decay": 0.0, **lower})
    return groups


def _scales(model: nn.Module, decay: float) -> dict[str, float]:
    """Share of the learning rate by the name of a parameter; nothing without layer decay."""
    if decay == 1:
        return {}
    layer_depths: Any = getattr(model, "layer_depths", None)
    if layer_depths is None:
        raise ValueError(
            f"layer_decay must be 1 for a model without layer_depths, got {decay} for {type(model).__name__}"
        )
    depths: dict[str, int] = layer_depths()
    return {name: decay ** (max(depths.values()) - depth) for name, depth in depths.items()}


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every group the rate, or its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def _keep_share_of_means(optimizer: torch.optim.Optimizer, share: float) -> None:
    weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.ndim >= 2]
    before: list[Tensor] = []

    def means() -> list[Tensor]:
        return [weight.detach().mean(dim=tuple(range(1, weight.ndim)), keepdim=True) for weight in weights]

    def note(*_: object) -> None:
        before[:] = means()

    @torch.no_grad()
    def damp(*_: object) -> None:
        for weight, earlier, now in zip(weights, before, means(), strict=True):
            weight.sub_((1 - share) * (now - earlier))

    optimizer.register_step_pre_hook(note)
    optimizer.register_step_post_hook(damp)


def learning_rate(recipe: Recipe, step: int, *, steps_per_epoch: int) -> float:
    """The learning rate of `step`, counted from 0 over the whole run.

    Linear from `warmup_lr` to `lr` over the warm-up. Then a cosine, min_lr + (lr - min_lr) (1 + cos(pi x)) / 2 with x
    from 0 to 1 over what is left of `epochs`, then `min_lr` (Loshchilov & Hutter 2017, without restarts); or `lr` times
    `milestone_factor` for each milestone that the epoch, counted from 0, has reached.
    """
    warmup = recipe.warmup_epochs * steps_per_epoch
    total = recipe.epochs * steps_per_epoch
    if step < warmup:
        return recipe.warmup_lr + (recipe.lr - recipe.warmup_lr) * step / warmup
    if recipe.schedule == "milestones":
        return recipe.lr * recipe.milestone_factor ** bisect_right(recipe.milestones, step // steps_per_epoch)
    if step >= total:
        return recipe.min_lr
    progress = (step - warmup) / (total - warmup)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * 0.5 * (1.0 + math.cos(math.pi * progress))


def _declared_names(model: nn.Module) -> set[str]:
    names = set()
    for prefix, module in model.named_modules():
        declare: Any = getattr(module, "no_weight_decay", None)
        if declare is not None:
            names |= {f"{prefix}.{name}" if prefix else name for name in declare()}
    return names
