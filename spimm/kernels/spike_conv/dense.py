"""torch's dense convolution and its gradients, in float32 where torch has no bfloat16 convolution for the processor.

There (x86 without AVX-512) torch takes a path several times as slow, which rounds partial sums to bfloat16.
"""

import torch
from torch import Tensor


def dense_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """conv2d(x, weight, bias), in the dtype of x."""
    if _converts(x.dtype):
        bias = None if bias is None else bias.float()
        return torch.conv2d(x.float(), weight.float(), bias, stride, padding).to(x.dtype)
    return torch.conv2d(x, weight, bias, stride, padding)


def _converts(dtype: torch.dtype) -> bool:
    """Whether torch's own convolution in this dtype is the slow one."""
    return dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def dense_gradient(x: Tensor, grad: Tensor, weight: Tensor, stride: int, padding: int, *, wanted: int) -> Tensor:
    """The gradient of x (0) or weight (1) by torch's dense convolution, computed as in `dense_conv2d`."""
    mask, dtype = [wanted == 0, wanted == 1, False], grad.dtype
    if _converts(dtype):
        x, grad, weight = x.float(), grad.float(), weight.float()
    found = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, mask
    )
    return found[wanted].to(dtype)
