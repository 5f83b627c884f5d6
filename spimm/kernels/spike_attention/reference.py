"""Linear spiking self-attention in plain torch: the truth (Zhou et al. 2024 (QKFormer), eq. 9, k^T v first)."""

from torch import Tensor


def spike_attention(qkv: Tensor, num_heads: int, scale: float) -> Tensor:
    """scale q (k^T v) per head. qkv: [T, B, 3C, H, W], the channels of q, of k, of v -> [T, B, C, H, W]."""
    height, width = qkv.shape[-2:]
    heads = qkv.flatten(-2).unflatten(2, (3, num_heads, -1)).transpose(-2, -1)  # [T, B, 3, h, N, d]
    q, k, v = heads.unbind(2)
    y = scale * (q @ (k.transpose(-2, -1) @ v))
    return y.transpose(-2, -1).flatten(2, 3).unflatten(-1, (height, width))
