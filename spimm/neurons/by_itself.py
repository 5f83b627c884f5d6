"""Which modules an op may stand in for: those that nobody watches, whose forward is one that ops compute.

A fused op does what several modules do without calling them. Before it does so `runs_by_itself` is asked about each: a
module with hooks (its own, or torch's global ones), or with a forward that no op knows, is called instead.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

logger = logging.getLogger("spimm.layers")
ModuleT = TypeVar("ModuleT", bound=type[nn.Module])

_known: set[Callable[..., Any]] = {nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward, nn.Conv2d.forward}
_unseen: ContextVar[bool] = ContextVar("hooks do not count", default=False)
_said: set[tuple[str, str]] = set()
_BY_ITSELF = "it runs by itself, not in one op with its neighbours"


def fusible(cls: ModuleT) -> ModuleT:
    """Class decorator: there are ops that compute this class's forward, and stand in for modules that have it."""
    _known.add(cls.forward)
    return cls


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module runs hooks: forward or backward ones, its own or those of all modules."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or torch_modules._global_forward_hooks
        or torch_modules._global_forward_pre_hooks
        or torch_modules._global_backward_hooks
        or torch_modules._global_backward_pre_hooks
    )


def has_own_forward(module: nn.Module) -> bool:
    """Whether its forward is another than those of the `fusible` classes: a subclass's, or an attribute's."""
    return "forward" in vars(module) or type(module).forward not in _known


def runs_by_itself(module: nn.Module) -> bool:
    """Whether the module is to be called, no op standing in for it. The reason is logged once for each class."""
    if has_hooks(module) and not _unseen.get():
        say_once(module, f"has hooks: {_BY_ITSELF}")
    elif has_own_forward(module):
        say_once(module, f"has a forward of its own: {_BY_ITSELF}")
    else:
        return False
    return True


@contextmanager
def hooks_unseen() -> Iterator[None]:
    """Within it hooks do not make a module run by itself: for results that are computed a second time."""
    token = _unseen.set(True)
    try:
        yield
    finally:
        _unseen.reset(token)


def say_once(module: nn.Module, what: str) -> None:
    """Logs what holds for a module, once for all modules of its class."""
    said = type(module).__name__, what
    if not torch.compiler.is_compiling() and said not in _said:
        _said.add(said)
        logger.info("%s %s", *said)


def call_with(module: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What a call of the module gives, hooks and all, if `forward` is its forward for the time of the call."""
    vars(module)["forward"] = forward
    try:
        return module(x)
    finally:
        vars(module).pop("forward", None)


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """Within it the module reads and writes copies of its buffers: what it does to them is forgotten."""
    parts = [(part._buffers, dict(part._buffers)) for part in module.modules()]
    for buffers, kept in parts:
        buffers |= {name: None if buffer is None else buffer.clone() for name, buffer in kept.items()}
    try:
        yield
    finally:
        for buffers, kept in parts:
            buffers |= kept
