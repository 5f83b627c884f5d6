"""Depth-wise convolution in plain torch: the truth."""

from torch import Tensor
from torch.nn.functional import conv2d


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, branches: int) -> Tensor:
    """The sum of n branches. x: [N, n C, H, W], weight: [n m C, 1, k, k], bias: [m C] -> [N, m C, H / s, W / s]."""
    y = conv2d(x, weight, bias if branches == 1 else None, stride, weight.shape[-1] // 2, groups=x.shape[1])
    if branches == 1:
        return y
    y = y.movedim(1, -1).unflatten(-1, (branches, -1)).sum(-2).movedim(-1, 1)
    return y if bias is None else y + bias.view(-1, 1, 1)
