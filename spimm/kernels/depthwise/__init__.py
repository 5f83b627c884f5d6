"""Depth-wise convolution, whose weight gradient is where other libraries lose their time."""

import torch
from torch import Tensor

from spimm.kernels import dispatch
from spimm.kernels.depthwise import cpu, reference


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    """Each channel by its own kernel, zeros around. x: [N, C, H, W], weight: [C, 1, k, k], bias: [C] -> [N, C, H, W].

    k is odd. Under autocast it computes in autocast's dtype. Raises ValueError for shapes that do not fit.
    """
    kernel = weight.shape[-1]
    if x.dim() != 4 or tuple(weight.shape) != (x.shape[1], 1, kernel, kernel) or kernel % 2 == 0:
        shapes = f"x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}"
        raise ValueError(f"{shapes}; wanted [N, C, H, W] and [C, 1, k, k], k odd")
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return dispatch.call("depthwise_conv2d", backend, x, weight, bias)


dispatch.register("depthwise_conv2d", "cpu", cpu.depthwise_conv2d, cpu.unsupported)
dispatch.register("depthwise_conv2d", "reference", reference.depthwise_conv2d, lambda *_: None)
