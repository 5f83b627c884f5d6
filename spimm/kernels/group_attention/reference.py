"""Softmax attention within groups of tokens in plain torch: the truth."""

import math

from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention


def group_attention(qkv: Tensor, bias: Tensor, members: Tensor, *, shared: bool) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v per group and head. qkv: [T, B, 3C or C, H, W] -> [T, B, C, H, W].

    bias: [h, P, P], query by key. members: [groups, P], the token at each position of a group, or -1 for none.
    """
    inputs, (height, width) = 1 if shared else 3, qkv.shape[-2:]
    tokens = qkv.movedim(2, -1).flatten(0, 1).flatten(1, 2)  # [T B, N, inputs h d]
    nothing = height * width  # a token of zeros
    places = members.long().where(members >= 0, nothing)
    x = pad(tokens, (0, 0, 0, 1))[:, places].unflatten(-1, (inputs, len(bias), -1))
    x = x.permute(3, 0, 1, 4, 2, 5)  # [inputs, T B, groups, h, P, d]
    q, k, v = x if inputs == 3 else (x[0], x[0], x[0])
    absent = (members < 0)[:, None, None]
    mask = bias.to(q.dtype).expand(len(members), -1, -1, -1).masked_fill(absent, -math.inf)
    y = scaled_dot_product_attention(q, k, v, attn_mask=mask.expand(len(q), -1, -1, -1, -1))
    y = y.transpose(2, 3).flatten(3).flatten(1, 2)  # [T B, groups P, C]
    at = places.new_empty(nothing + 1).scatter_(0, places.flatten(), places.new_tensor(range(places.numel())))
    return y[:, at[:nothing]].unflatten(1, (height, width)).movedim(-1, 1).unflatten(0, qkv.shape[:2])
