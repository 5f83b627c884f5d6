"""Depth-wise convolution, of one input or of the branches of a multi-threshold neuron."""

import torch
from torch import Tensor

from spimm.kernels import dispatch
from spimm.kernels.depthwise import cpu, reference
from spimm.kernels.door import check_dtype, check_shape, check_tensors


def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    branches: int = 1,
    backend: str = "auto",
) -> Tensor:
    """Each channel by its own kernels, zeros around. x: [N, n C, H, W], branch after branch -> [N, m C, H / s, W / s].

    weight: [n m C, 1, k, k], for each branch m kernels for each of its channels; the n branches are summed. bias:
    [m C]. k is odd; H / s is rounded up. Under autocast it computes in autocast's dtype. Raises ValueError for shapes
    that do not fit.
    """
    check_tensors({"x": x, "weight": weight}, {"bias": bias})
    kernel, channels = weight.shape[-1] if weight.dim() == 4 else 0, x.shape[1] if x.dim() == 4 else 0
    fits = channels and kernel % 2 and branches >= 1 and channels % branches == 0 and len(weight)
    if not fits or len(weight) % channels or tuple(weight.shape[1:]) != (1, kernel, kernel):
        shapes = f"x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}"
        wanted = f"[N, {branches} C, H, W] and [{branches} m C, 1, k, k], k odd"
        raise ValueError(f"{shapes}; wanted {wanted.replace('1 m C', 'm C').replace('1 C', 'C')}")
    if stride < 1:
        raise ValueError(f"stride is {stride}; wanted at least 1")
    check_shape("bias", bias, (len(weight) // branches,))
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    check_dtype("x", x, weight=weight, bias=bias)
    return dispatch.call("depthwise_conv2d", backend, x, weight, bias, stride, branches)


dispatch.register("depthwise_conv2d", "cpu", cpu.depthwise_conv2d, cpu.unsupported)
dispatch.register("depthwise_conv2d", "reference", reference.depthwise_conv2d, lambda *_: None)
