"""Spike times under the dynamic firing threshold in plain torch: the truth that every backend is tested against.

Wei et al. 2023 (DTA-TTFS), Eqs. 2-7 and 9-10, relative to windows of length T_w. Presynaptic neuron i fires at t_i in
its window, a_i = T_w - t_i. Where that window ends the next layer's begins, at potential z = sum w a; from there the
potential grows with slope W = sum w over the neurons that fired, and the threshold falls from T_w to 0:

    t = 0                        where z >= T_w
    t = (T_w - z) / (1 + W)      where z < T_w and z + W T_w >= 0; then 1 + W > 0
    silent                       elsewhere
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d


def rel_psp(drive: Tensor, window: float, pool: int, closed: bool, clip: float) -> Tensor:
    """(z, W) -> (T_w - t, fired). drive: [2, ...] -> [2, ...]; with `pool` [2, B, C, H, W] -> [2, B, C, H/p, W/p]."""
    spikes: Tensor = _Fire.apply(drive, window, closed, clip)  # type: ignore[assignment]
    return spikes if pool == 1 else earliest(spikes, pool)


def earliest(spikes: Tensor, pool: int) -> Tensor:
    """The first spike of each p x p square, a rest at the border left out. [2, B, C, H, W] -> [2, B, C, H/p, W/p]."""
    return max_pool2d(spikes.flatten(0, 1), pool).unflatten(0, spikes.shape[:2])


def fire(drive: Tensor, window: float, closed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """T_w - t (0 where silent), fired, and whether the time lies inside the window; each as drive[0]."""
    z, weights = drive
    end = z + window * weights  # the potential where the window ends and the threshold is 0
    at_start = z >= window
    crosses = ~at_start & ~((end < 0) if closed else (end <= 0))  # true for NaN, which then stays NaN
    activation = torch.where(crosses, end / torch.where(crosses, 1 + weights, 1), 0).clamp(max=window)
    inside = crosses & (activation > 0) & (activation < window)
    return torch.where(at_start, window, activation), at_start | crosses, inside


class _Fire(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(drive: Tensor, window: float, closed: bool, clip: float) -> Tensor:
        activation, fired, _ = fire(drive, window, closed)
        return torch.stack([activation, fired.to(drive.dtype)])

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        drive, *settings = inputs
        ctx.settings = settings
        ctx.save_for_backward(drive)
        ctx.save_for_forward(drive)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (drive,) = ctx.saved_tensors
        return torch.stack(gradients(grad[0], drive, *ctx.settings)), None, None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor, *_: None) -> Tensor:  # type: ignore[override]
        (drive,) = ctx.saved_tensors
        slopes = gradients(torch.ones_like(drive[0]), drive, *ctx.settings)
        moved = slopes[0] * tangent[0] + slopes[1] * tangent[1]
        return torch.stack([moved, torch.zeros_like(moved)])


def gradients(grad: Tensor, drive: Tensor, window: float, closed: bool, clip: float) -> tuple[Tensor, Tensor]:
    """Of z and W, from that of the activation: grad / (1 + W) and grad t / (1 + W) inside the window, else 0.

    The authors clip element-wise, in the coordinates I = sum w t_i and W of their own window-relative form: dt/dI =
    1 / (1 + W) and -dt/dW = (T_w + t) / (1 + W) are at most `clip`.
    """
    activation, _, inside = fire(drive, window, closed)
    rate = torch.where(inside, 1 / torch.where(inside, 1 + drive[1], 1), 0)
    if clip == math.inf:
        return grad * rate, grad * ((window - activation) * rate)
    of_z = rate.clamp(max=clip)
    return grad * of_z, grad * (((2 * window - activation) * rate).clamp(max=clip) - window * of_z)
