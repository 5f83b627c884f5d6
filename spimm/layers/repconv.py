"""Re-parameterisable convolutions of Meta-SpikeFormer: RepConv and separable convolution. Yao et al. 2024, section 3.2.

Both are rows of linear layers without a neuron in between, so that one dense convolution can stand for them in
inference (deploy.fold). N samples and steps, C channels, H W space.
"""

from torch import Tensor, nn

from spimm.kernels import depthwise_conv2d
from spimm.layers.conv import ConvNormNeuron, ConvUnit, SpikeConv2d
from spimm.layers.norm import FUSED_NORMS, batch_norm, is_frozen
from spimm.layers.plain import Conv2d
from spimm.layers.shortcut import Ending
from spimm.neurons import Neuron, fusible, has_own_forward


@fusible
class DepthwiseConv2d(Conv2d):
    """Each channel by its own kernel, zeros around. [N, C, H, W] -> same."""

    def __init__(self, channels: int, kernel_size: int):
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return depthwise_conv2d(x, self.weight, self.bias)


@fusible
class BranchConv2d(Conv2d):
    """Depth-wise convolution of concatenated branches, summed over them. [N, n C, H, W] -> [N, C', H / s, W / s].

    Every channel of every branch has a kernel of its own for each of the C' / C output channels that it makes. C' is a
    multiple of C; H / s is rounded up.
    """

    def __init__(self, in_chans: int, out_chans: int, kernel_size: int, *, stride: int = 1, branches: int = 1):
        groups, padding = branches * in_chans, kernel_size // 2
        super().__init__(groups, branches * out_chans, kernel_size, stride, padding, groups=groups, bias=False)
        self.branches = branches

    def forward(self, x: Tensor) -> Tensor:
        return depthwise_conv2d(x, self.weight, self.bias, stride=self.stride[0], branches=self.branches)


@fusible
class BorderConv2d(Conv2d):
    """Depth-wise 3x3 convolution whose input is surrounded by `border`, a number for each channel.

    x: [N, C, H, W], border: [C] -> [N, C, H, W]. No padded copy is made: what the border adds, once it is everywhere,
    is the same at every place.
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, groups=channels, bias=False)

    def forward(self, x: Tensor, border: Tensor) -> Tensor:  # type: ignore[override]
        inner = x - border.view(-1, 1, 1).to(x.dtype)
        return depthwise_conv2d(inner, self.weight, border * self.weight.sum((1, 2, 3)))


@fusible
class RepConv(nn.Module):
    """BN(PW(DW3x3(pad(BN(PW(x)))))): a 3x3 convolution with 2 C^2 + 9 C weights. x: [N, C, H, W] -> [N, C', H, W].

    The padding is what the first norm makes of 0, from its running statistics and without a gradient, as if zeros had
    been put around x. `branches` RepConvs of the same input run as one: their channels, C' / branches each, do not mix.
    Re-parameterised into one 3x3 convolution it has 9 C C' weights.
    """

    def __init__(self, in_chans: int, out_chans: int, branches: int = 1):
        super().__init__()
        self.expand = SpikeConv2d(in_chans, out_chans, 1)
        self.expand_norm = nn.BatchNorm2d(out_chans)
        self.depthwise = BorderConv2d(out_chans)
        self.project = Conv2d(out_chans, out_chans, 1, groups=branches, bias=False)
        self.project_norm = nn.BatchNorm2d(out_chans)

    def forward(self, x: Tensor) -> Tensor:
        x = _norm(self.expand(x), self.expand_norm)
        return _norm(self.project(self.depthwise(x, self.border())), self.project_norm)

    def border(self) -> Tensor:
        """What the first norm makes of zero input, by its running statistics, [C'].

        Raises ValueError for a norm of which that is not known: of another kind, or without running statistics.
        """
        norm = self.expand_norm
        known = is_frozen(norm) or (isinstance(norm, FUSED_NORMS) and not has_own_forward(norm))
        if not known or norm.running_mean is None or norm.running_var is None:
            raise ValueError(
                f"expand_norm is {norm}; RepConv pads with what its norm makes of 0, which is known of BatchNorm2d, "
                "SyncBatchNorm and FrozenBatchNorm2d with running statistics"
            )
        gain = (norm.running_var + norm.eps).rsqrt()
        gain = gain if norm.weight is None else norm.weight.detach() * gain
        shift = norm.running_mean * gain
        return -shift if norm.bias is None else norm.bias.detach() - shift


def _norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    return batch_norm(x.unsqueeze(0), norm).squeeze(0)


class SepConv(nn.Module):
    """Separable convolution BN(PW2(DW7x7(LIF(BN(PW1(x)))))), expansion 2, and the shortcut `added`.

    x, added: [T, B, C, H, W] -> same. DW and PW2 together are a dense 7x7 convolution 2 C -> C.
    """

    def __init__(self, dim: int, *, neuron: Neuron, ending: Ending, expansion: int = 2, kernel_size: int = 7):
        super().__init__()
        hidden = dim * expansion
        self.expand = ConvNormNeuron(dim, hidden, 1, neuron=neuron)
        chain = nn.Sequential(DepthwiseConv2d(hidden, kernel_size), Conv2d(hidden, dim, 1, bias=False))
        self.mix = ConvUnit(chain, dim, **ending._asdict())

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        return self.mix(self.expand(x), added=added)
