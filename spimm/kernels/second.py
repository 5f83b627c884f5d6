"""Second derivatives of compiled ops: where gradients are to be differentiated again, the reference computes them.

The backward passes of the compiled ops have no derivatives of their own. Under `create_graph=True` torch runs backward
passes with gradients enabled: the formulas then come from the op's reference.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

logger = logging.getLogger("spimm.kernels")
_logged: set[str] = set()


def wanted() -> bool:
    """Whether the backward pass that runs is to be differentiated itself."""
    return torch.is_grad_enabled()


def gradients(
    op: str,
    run: Callable[..., Tensor | Sequence[Tensor]],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """The gradients of run(*inputs), differentiable in the inputs and in `grads`; None where they are not needed.

    `grads` are those of the results of `run`, in their order; None for a result that nothing depends on. A result past
    the last of `grads` has none. Logs once that the op leaves its backend.
    """
    if not torch.compiler.is_compiling() and op not in _logged:
        _logged.add(op)
        logger.info("second derivatives of %s run on backend reference", op)
    places = [i for i, (x, need) in enumerate(zip(inputs, needed, strict=True)) if need and x is not None]
    with torch.enable_grad():
        apart = [x.view_as(x) if i in places and x is not None else x for i, x in enumerate(inputs)]
        results = run(*apart)
        results = (results,) if isinstance(results, Tensor) else results
        pairs = [(y, grad) for y, grad in zip(results, grads, strict=False) if grad is not None and y.requires_grad]
        found: list[Tensor | None] = [None] * len(inputs)
        if pairs and places:
            outputs, vectors = [y for y, _ in pairs], [grad.to(y.dtype) for y, grad in pairs]
            sources = [x for i, x in enumerate(apart) if i in places and x is not None]
            of_inputs = torch.autograd.grad(outputs, sources, vectors, create_graph=True, allow_unused=True)
            for place, gradient in zip(places, of_inputs, strict=True):
                found[place] = gradient
    return found
