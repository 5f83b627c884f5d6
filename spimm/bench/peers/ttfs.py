"""DTA-TTFS in torch alone, as its equations are written down: times, two products a layer, an autograd function.

Silent neurons have time infinity; times are relative to the layer's own window, of length 1. N images, C channels, H W
space, F features. NCHW memory.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, max_pool2d

from spimm.models.ttfs import TTFSConfig


class SpikeTime(torch.autograd.Function):
    """1 + t = (2 + I) / (1 + W), Wei et al. 2023, Eq. 7, with Eqs. 9 and 10. I = sum w t, W = sum w over what fired."""

    @staticmethod
    def forward(ctx, weighted: Tensor, weights: Tensor, closed: bool) -> Tensor:
        at_start = weights >= 1 + weighted
        late = (2 + weighted) / (1 + weights)
        end = 2 * weights - weighted  # the potential where the window ends
        silent = ~at_start & ((end < 0) if closed else (end <= 0))
        time = torch.where(at_start, 0, torch.where(silent, torch.inf, late - 1))
        ctx.save_for_backward(time, weights)
        return time

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        time, weights = ctx.saved_tensors
        inside = (time > 0) & (time < 1)
        of_weighted = torch.where(inside, grad / (1 + weights), 0)
        return of_weighted, torch.where(inside, -of_weighted * (1 + time), 0), None


class Layer(nn.Module):
    """A convolution or fully connected layer, its neurons, and where the network has one a 2x2 pool.

    Times [N, C, H, W] or [N, F] -> times; the first of a network with direct coding takes the image itself.
    """

    def __init__(self, weight: Tensor, config: TTFSConfig, *, pool: bool = False, direct: bool = False):
        super().__init__()
        self.weight = nn.Parameter(weight.detach().contiguous().clone())
        self.padding, self.closed, self.pool, self.direct = config.padding, config.closed, pool, direct

    def product(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, padding=self.padding) if x.dim() == 4 else linear(x, self.weight)

    def drive(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """I and W."""
        fired = torch.isfinite(times)
        return self.product(torch.where(fired, times, 0)), self.product(fired.to(times.dtype))

    def forward(self, times: Tensor) -> Tensor:
        if self.direct:
            activation = self.product(times).clamp(0, 1)
            times = torch.where(activation > 0, 1 - activation, torch.inf)
        else:
            times = SpikeTime.apply(*self.drive(times), self.closed)  # type: ignore[assignment]
        return -max_pool2d(-times, 2) if self.pool else times


class PlainTTFS(nn.Module):
    """The network of a configuration with given weights, in order. Image [N, C, H, W] -> logits [N, num_classes].

    The read-out is the potential where the output window starts.
    """

    def __init__(self, config: TTFSConfig, weights: list[Tensor]):
        super().__init__()
        self.code = config.code
        remaining = iter(weights)
        self.convs = nn.Sequential()
        for i, widths in enumerate(config.conv_plan()):
            for j in range(len(widths)):
                direct = config.code == "direct" and i == j == 0
                self.convs.append(Layer(next(remaining), config, pool=j == len(widths) - 1, direct=direct))
        self.hidden = nn.Sequential(*(Layer(next(remaining), config) for _ in config.hidden_widths()))
        self.last = Layer(next(remaining), config)

    def forward(self, x: Tensor) -> Tensor:
        times = x if self.code == "direct" else torch.where(x > 0, 1 - x, torch.inf)
        weighted, weights = self.last.drive(self.hidden(self.convs(times).flatten(1)))
        return weights - weighted

    def in_order(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of our network under this one's names; both have them in the order of their layers."""
        return dict(zip((name for name, _ in self.named_parameters()), ours.values(), strict=True))
