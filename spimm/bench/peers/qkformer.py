"""QKFormer of SpikingJelly's neuron with torch's layers around it, written as its users write networks.

NCHW memory, time folded into the batch for convolutions and norms, the image repeated T times, q, k and v from
convolutions of their own, `reset_net` between batches.
T time, B batch, C channels, H W space, h heads, d = C / h, N = H W tokens.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from spimm.bench.peers.network import PeerNetwork, apart, renamed
from spimm.bench.peers.neurons import lif_node
from spimm.layers import PATCH_FORMS
from spimm.layers.patch import PatchForm
from spimm.models.qkformer import QKFormerConfig

SSA_SCALE = 0.125


class Unit(nn.Module):
    """LIF(BN(conv(x))), with `pool` in front of the LIF. x: [T, B, C, H, W] -> [T, B, C', H', W']."""

    def __init__(
        self, in_chans: int, out_chans: int, kernel: int, *, stride: int = 1, bias: bool = False, pool: bool = False
    ):
        super().__init__()
        self.conv = nn.Conv2d(in_chans, out_chans, kernel, stride, kernel // 2, bias=bias)
        self.norm = nn.BatchNorm2d(out_chans)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if pool else nn.Identity()
        self.neuron = lif_node()

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(self.norm(self.conv(x.flatten(0, 1))))
        return self.neuron(y.unflatten(0, x.shape[:2]))


class Embed(nn.Module):
    """SPEDS: two 3x3 units and a 1x1 shortcut, which starts behind the first unit where the form says so."""

    def __init__(self, in_chans: int, dim: int, form: PatchForm):
        super().__init__()
        middle = dim // form.divisors[0]
        self.behind_first = form.tap == 1
        first, second = form.pools
        self.units = nn.ModuleList([Unit(in_chans, middle, 3, pool=first), Unit(middle, dim, 3, pool=second)])
        self.shortcut = Unit(middle if self.behind_first else in_chans, dim, 1, stride=form.shortcut_stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.units[0](x)
        return self.units[1](y) + self.shortcut(y if self.behind_first else x)


class TokenAttention(nn.Module):
    """QKTA: k at the tokens whose query fires. x: [T, B, C, H, W] -> same."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k = Unit(dim, dim, 1), Unit(dim, dim, 1)
        self.core = lif_node(0.5)
        self.proj = Unit(dim, dim, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        q, k = (unit(x).flatten(3).unflatten(2, (self.num_heads, -1)) for unit in (self.q, self.k))  # [T, B, h, d, N]
        return self.proj((self.core(q.sum(3, keepdim=True)) * k).reshape(x.shape))


class SelfAttention(nn.Module):
    """SSA: LIF(0.125 q (k^T v)) a head. x: [T, B, C, H, W] -> same. No state runs from sample to sample."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v = Unit(dim, dim, 1), Unit(dim, dim, 1), Unit(dim, dim, 1)
        self.core = lif_node(0.5)
        self.proj = Unit(dim, dim, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        heads = (unit(x).flatten(3).unflatten(2, (self.num_heads, -1)) for unit in (self.q, self.k, self.v))
        q, k, v = (y.transpose(-1, -2) for y in heads)  # [T, B, h, N, d]
        y = q @ (k.transpose(-1, -2) @ v) * SSA_SCALE
        return self.proj(self.core(y.transpose(-1, -2).reshape(x.shape)))


class Block(nn.Module):
    """Attention and MLP, each added behind its last neuron. x: [T, B, C, H, W] -> same."""

    def __init__(self, kind: str, dim: int, num_heads: int, mlp_ratio: float):
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.attention = SelfAttention(dim, num_heads) if kind == "ssa" else TokenAttention(dim, num_heads)
        self.mlp = nn.Sequential(Unit(dim, hidden, 1, bias=True), Unit(hidden, dim, 1, bias=True))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class Stage(nn.Module):
    """Patch embedding and blocks of one resolution. x: [T, B, C, H, W] -> [T, B, dim, H / stride, W / stride]."""

    def __init__(self, index: int, in_chans: int, dim: int, config: QKFormerConfig):
        super().__init__()
        (kind, form), heads = config.stage_kinds()[index], config.num_heads
        self.embed = Embed(in_chans, dim, PATCH_FORMS[form])
        self.blocks = nn.Sequential(*(Block(kind, dim, heads, config.mlp_ratio) for _ in range(config.depths[index])))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.embed(x))


class PeerQKFormer(PeerNetwork):
    """QKFormer in its CIFAR form. Image [B, C, H, W] -> logits [B, num_classes]. Zhou et al. 2024, sections 3.3-3.5.

    Of the configuration it reads widths, depths, heads, MLP ratio, kinds of attention, patch forms of two units, steps,
    channels and classes.
    """

    def __init__(self, config: QKFormerConfig):
        super().__init__(config)
        stages = len(config.depths)
        widths = [config.in_chans, *(config.embed_dim // 2 ** (stages - 1 - i) for i in range(stages))]
        self.stages = nn.Sequential(*(Stage(i, widths[i], widths[i + 1], config) for i in range(stages)))
        self.head = nn.Linear(config.embed_dim, config.num_classes)

    def forward(self, image: Tensor) -> Tensor:
        self.reset_net(self)
        x = image.unsqueeze(0).repeat(self.num_steps, 1, 1, 1, 1)
        return self.head(self.stages(x).flatten(3).mean(3).mean(0))

    @staticmethod
    def tensors(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of our QKFormer (weights or their gradients) under the peer's names, q, k and v apart."""
        theirs: dict[str, Tensor] = {}
        for key, value in ours.items():
            name, joined = renamed(key, _RENAMED), key.partition(".qkv.")
            if not joined[1]:
                theirs[name] = value
                continue
            rows, columns = ours[f"{joined[0]}.qkv.conv.weight"].shape[:2]
            theirs |= apart(name, "qkv", "qkv"[: rows // columns], value)
        return theirs


_RENAMED = {".attention.branch.": ".attention.", ".mlp.branch.expand.": ".mlp.0.", ".mlp.branch.contract.": ".mlp.1."}
