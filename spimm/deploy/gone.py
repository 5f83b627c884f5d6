"""What folding must not lose: hooks, and forwards that its rules do not know."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from spimm.neurons import has_own_forward

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def move_hooks(module: nn.Module, stand_in: nn.Module) -> None:
    """Hooks of a module go to the one that stands for it and is called as it was."""
    for name in _HOOKS:
        if getattr(module, name):
            setattr(stand_in, name, getattr(module, name))
            stand_in._is_full_backward_hook = module._is_full_backward_hook


def check_gone(parts: Mapping[str, nn.Module], folded: nn.Module, *rules: Any) -> None:
    """Raises ValueError, naming the layer, if a part that was left out had hooks or did more than the rules know of.

    parts: of the model before, by name; rules: the single-dispatch functions that fold modules.
    """
    left = set(folded.modules())
    kept = {id(hooks) for module in left for hooks in _hooks(module)}
    for name, module in parts.items():
        layer = f"layer {name!r} ({type(module).__name__})"
        if module not in left and any(id(hooks) not in kept for hooks in _hooks(module)):
            raise ValueError(
                f"{layer} has hooks and would be folded away; fold first and put hooks on the result, or remove them\n"
                "(hooks of pruning: torch.nn.utils.prune.remove makes it permanent)"
            )
        if module not in left and has_own_forward(module) and _is_misread(module, rules):
            raise ValueError(
                f"{layer} has a forward of its own and would be folded as if it had that of its base class;\n"
                "say what it does in eval mode with @spimm.deploy.linear_steps.register or fold_module.register"
            )


def _hooks(module: nn.Module) -> Iterator[dict[int, Any]]:
    return (hooks for name in _HOOKS if (hooks := getattr(module, name)))


def _is_misread(module: nn.Module, rules: tuple[Any, ...]) -> bool:
    """Whether a rule serves it that was made for a class with another forward."""
    served = any(rule.dispatch(type(module)) is not rule.dispatch(object) for rule in rules)
    forwards = {getattr(cls, "forward", None) for rule in rules for cls in rule.registry}
    return served and ("forward" in vars(module) or type(module).forward not in forwards)
