"""Products and weights that no probe counts: a trace without them would be wrong, and nobody would know."""

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from spimm.analyze.ops import probe

PRODUCTS = re.compile(
    r"(_|mkldnn_|cudnn_)?convolution|conv(_transpose)?[123]d|linear|(bi|_tri)linear|_?addmm(_activation)?|_?(scaled_)?mm"
    r"|(badd|add)?bmm|(add)?mv|v?dot|inner|matmul|einsum|tensordot|_?embedding_bag|(lstm|gru|rnn_tanh|rnn_relu)(_cell)?"
    r"|mkldnn_rnn_layer|_cudnn_rnn|_?scaled_dot_product.*|_native_multi_head_attention|_transformer_encoder_layer_fwd"
    r"|(spike|depthwise|psp)_conv2d(_lif)?|(spike|group)_attention"
)
"""Names of torch's and of our ops that multiply matrices, also of those that inference mode does not take apart."""
MAX_NAMED = 3


@functools.cache
def is_product(func: Any) -> bool:
    """Whether an op multiplies matrices."""
    return PRODUCTS.fullmatch(func.overloadpacket.__name__) is not None


class WatchProducts(TorchDispatchMode):
    """Within it `note` is called with the name of each op that multiplies matrices, before it runs."""

    def __init__(self, note: Callable[[str], None]):
        super().__init__()
        self._note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if is_product(func):
            self._note(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def unknown_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules without parts that have parameters of their own and no rule of `probe`, by name."""
    nothing = probe.dispatch(object)
    for name, module in model.named_modules():
        leaf = not any(module.children()) and any(True for _ in module.parameters(recurse=False))
        if leaf and probe.dispatch(type(module)) is nothing:
            yield name, module


def calling_module(names: Mapping[nn.Module, str]) -> nn.Module | None:
    """The innermost of these modules whose method runs now."""
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and owner in names:
            return owner
        frame = frame.f_back
    return None


def check_counted(model_name: str, uncounted: Mapping[str, str]) -> None:
    """Raises ValueError, naming the layers, unless all are counted. uncounted: what is at each layer, by its name."""
    if uncounted:
        named = ", ".join(f"{name!r} ({what})" for name, what in list(uncounted.items())[:MAX_NAMED])
        more = f" and {len(uncounted) - MAX_NAMED} more" if len(uncounted) > MAX_NAMED else ""
        raise ValueError(
            f"no probe counts the work of {named}{more} in {model_name}: the trace would leave it out.\n"
            "Register one for the class with @spimm.analyze.probe.register; one that returns () counts nothing"
        )
