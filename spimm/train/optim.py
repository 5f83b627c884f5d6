"""AdamW and LAMB, the parameters that decay, and the learning rate as a function of the step."""

import math
from typing import Any

import torch
from timm.optim.lamb import Lamb
from torch import nn

from spimm.train.config import Recipe


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over the parameters that train; its learning rate is set before every step.

    LAMB (You et al. 2020) is timm's with the trust ratio kept at or below 1, and without its own clipping of gradients:
    `clip_norm` is the only one.

    Only kernels and matrices decay: not biases, not parameters with fewer than two axes (norms, most neuron
    parameters), and not what a module names in a method `no_weight_decay() -> iterable of names`, which is for others,
    such as a position embedding or a threshold of shape [C, 1, 1].
    """
    spared = _declared_names(model)
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and not name.endswith("bias") and name not in spared
            (decayed if decays else undecayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "lamb":
        return Lamb(groups, lr=recipe.lr, betas=recipe.betas, trust_clip=True, max_grad_norm=None)
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)


def learning_rate(recipe: Recipe, step: int, *, steps_per_epoch: int) -> float:
    """The learning rate of `step`, counted from 0 over the whole run.

    Linear from `warmup_lr` to `lr` over the warm-up, then min_lr + (lr - min_lr) (1 + cos(pi x)) / 2 with x from 0 to 1
    over what is left of `epochs`, then `min_lr` (Loshchilov & Hutter 2017, without restarts).
    """
    warmup = recipe.warmup_epochs * steps_per_epoch
    total = recipe.epochs * steps_per_epoch
    if step < warmup:
        return recipe.warmup_lr + (recipe.lr - recipe.warmup_lr) * step / warmup
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
