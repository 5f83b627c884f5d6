"""Attention within groups against a loop over the groups, token by token."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

from spimm.layers import GroupAttention, SpikingAttention, grid_attention
from spimm.neurons import LIF, MultiLIF
from spimm.surrogate import ATan

from .conftest import is_channels_last, lively, steps

PARTITIONS = ("grid", "window", "full")
HEADS, DIM = 2, 6
MAPS = [(8, 8, 4), (13, 9, 7), (13, 9, 4), (3, 5, 7), (8, 15, 7), (1, 1, 4)]
every_partition = pytest.mark.parametrize("partition", PARTITIONS)
every_map = pytest.mark.parametrize(("height", "width", "size"), MAPS)
ATAN_LIF = partial(LIF, surrogate=ATan())


def axis(length: int, size: int, partition: str) -> list[list[tuple[int, int]]]:
    """Groups of (row, position in the group) along one axis."""
    if partition == "full":
        return [[(row, row * size // length if length > size else row) for row in range(length)]]
    positions = min(size, length)
    count = -(-length // positions)
    if partition == "grid":
        return [[(row, row // count) for row in range(group, length, count)] for group in range(count)]
    starts = range(0, length, positions)
    return [[(row, row - start) for row in range(start, min(start + positions, length))] for start in starts]


def naive(qkv: Tensor, core: GroupAttention) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v of each group and head, over the tokens that exist."""
    q, k, v = qkv.chunk(3, 2) if core.num_inputs == 3 else (qkv, qkv, qkv)
    height, width, size = *qkv.shape[-2:], core.size
    table, out = core.bias.unflatten(0, (2 * size - 1, 2 * size - 1)), torch.full_like(v, torch.nan)
    for rows in axis(height, size, core.partition):
        for columns in axis(width, size, core.partition):
            tokens = [(row, column, i, j) for row, i in rows for column, j in columns]
            at = ..., [token[0] for token in tokens], [token[1] for token in tokens]
            offsets = [[(b[2] - a[2], b[3] - a[3]) for b in tokens] for a in tokens]  # of a key, seen from a query
            bias = torch.stack([torch.stack([table[i + size - 1, j + size - 1] for i, j in row]) for row in offsets])
            for head in range(core.num_heads):
                own = slice(head * DIM // HEADS, (head + 1) * DIM // HEADS)
                queries, keys, values = (x[:, :, own][at] for x in (q, k, v))
                scores = queries.transpose(2, 3) @ keys / (DIM // HEADS) ** 0.5 + bias[..., head]
                out[:, :, own][at] = (softmax(scores, 3) @ values.transpose(2, 3)).transpose(2, 3)
    return out


def attention(size: int, partition: Any = "grid", *, shared: bool = False, spk: nn.Module | None = None) -> Any:
    core = GroupAttention(HEADS, size, spk or nn.Identity(), partition=partition, shared=shared)
    nn.init.normal_(core.bias)
    return core.double()


def values(height: int, width: int, *, inputs: int = 3, batch: int = 2, seed: int = 0) -> Tensor:
    return steps(2, batch, inputs * DIM, height, width, seed=seed).double().requires_grad_()


@every_map
@every_partition
@pytest.mark.parametrize("shared", [False, True], ids=["qkv", "shared"])
def test_it_is_the_formula_in_each_group_forward_and_backward(
    shared: bool, partition: str, height: int, width: int, size: int
) -> None:
    core, x = attention(size, partition, shared=shared), values(height, width, inputs=1 if shared else 3)
    weights, results = torch.randn(2, 2, DIM, height, width).double(), []
    for y in (core.attend(x), naive(x, core)):
        results.append([y, *torch.autograd.grad((y * weights).sum(), [x, core.bias])])
    for found, expected in zip(*results, strict=True):
        assert found.isfinite().all()
        torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("side", [56, 28, 14, 7])
def test_groups_of_the_grid_hold_49_tokens_spread_over_the_map_at_every_stage(side: int) -> None:
    groups = attention(7).groups(side, side)
    numbers, counts = groups.unique(return_counts=True)
    assert numbers.tolist() == list(range(side * side // 49))
    assert counts.unique().tolist() == [49]
    for number in (0, len(numbers) - 1):
        rows, columns = (groups == number).nonzero(as_tuple=True)
        assert rows.unique().diff().unique().tolist() == columns.unique().diff().unique().tolist() == [side // 7]


def test_the_grid_is_that_of_maxvit() -> None:
    height, width, size = 12, 20, 4
    tokens = torch.arange(height * width).view(size, height // size, size, width // size)
    expected = tokens.permute(1, 3, 0, 2).flatten(2).flatten(0, 1)  # [H/g W/g, g g]
    groups = attention(size).groups(height, width).flatten()
    assert torch.equal(torch.stack([(groups == i).nonzero().flatten() for i in range(len(expected))]), expected)


def test_windows_hold_neighbours_and_a_full_map_is_one_group() -> None:
    groups = attention(4, "window").groups(8, 12)
    assert all(len(block.unique()) == 1 for rows in groups.split(4) for block in rows.split(4, dim=1))
    assert groups[::4, ::4].unique().numel() == 6
    assert not attention(4, "full").groups(8, 12).any()


@every_partition
def test_a_token_reaches_its_group_and_nothing_else(partition: str) -> None:
    core, x, (row, column) = attention(4, partition), values(13, 9), (6, 8)
    reached = torch.autograd.grad(core.attend(x)[1, 0, :, row, column].sum(), x)[0].any(2)
    groups = core.groups(13, 9)
    assert torch.equal(reached[1, 0], groups == groups[row, column])
    assert not reached[0].any() and not reached[1, 1].any()


@pytest.mark.parametrize("size", [4, 7])
@every_partition
def test_samples_and_steps_do_not_see_each_other(partition: str, size: int) -> None:
    core, x = attention(size, partition), values(13, 9, batch=3)
    one_by_one = torch.stack([torch.cat([core.attend(x[t : t + 1, b : b + 1])[0] for b in range(3)]) for t in range(2)])
    torch.testing.assert_close(core.attend(x), one_by_one, atol=1e-12, rtol=0)


@every_partition
def test_every_relative_position_of_every_head_learns(partition: str) -> None:
    core = attention(4, partition)
    assert core.bias.shape == (49, HEADS)
    core.attend(values(8, 8)).square().sum().backward()
    assert core.bias.grad.all()


def layer(kind: str, **settings: Any) -> SpikingAttention:
    torch.manual_seed(1)
    spk = MultiLIF(ATAN_LIF(), [0.07, 0.16, 0.23])
    return lively(grid_attention(kind, DIM, HEADS, 4, neuron=ATAN_LIF(), spk=spk, **settings)).double().eval()


@every_partition
@pytest.mark.parametrize("size", [(8, 8), (13, 9)])
def test_bdsa_is_sisa_with_identity_projections(size: tuple[int, int], partition: Any) -> None:
    sisa, bdsa = layer("sisa", partition=partition), layer("bdsa", partition=partition)
    norm = sisa.qkv.norm
    norm.eps = 0.0
    with torch.no_grad():
        sisa.qkv.conv.weight.copy_(torch.eye(DIM).repeat(3, 1)[..., None, None])
        norm.weight.fill_(1.0)
        norm.bias.zero_()
    bdsa.load_state_dict({key: value for key, value in sisa.state_dict().items() if not key.startswith("qkv")})
    x = steps(3, 2, DIM, *size).double()
    assert bdsa.qkv(x).any()
    assert torch.equal(sisa(x), bdsa(x))
    assert sum(p.numel() for p in sisa.parameters()) - sum(p.numel() for p in bdsa.parameters()) == (
        3 * DIM * DIM + 2 * 3 * DIM
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", ["sisa", "bdsa"])
def test_the_projection_sees_the_spikes_of_the_block_in_front_of_it(kind: str) -> None:
    attend, seen = layer(kind), []
    attend.proj.register_forward_hook(lambda module, args, y: seen.append(args[0]))
    x, added = steps(3, 2, DIM, 8, 8).double(), steps(3, 2, DIM, 8, 8, seed=1).double()
    torch.testing.assert_close(attend(x, added=added), attend(x) + added)
    spikes = attend.core.spk(attend.core.attend(attend.qkv(x)))
    assert torch.equal(seen[0], spikes)
    assert spikes.unique().tolist() == [0, 1, 2, 3]


def test_without_a_neuron_bdsa_attends_to_the_values_themselves() -> None:
    attend = grid_attention("bdsa", DIM, HEADS, 4, neuron=None, spk=nn.Identity()).double().eval()
    x = values(8, 8, inputs=1)
    core = attend.core
    torch.testing.assert_close(core(attend.qkv(x)), naive(x, core))


@every_partition
def test_memory_stays_channels_last(partition: str) -> None:
    core = attention(4, partition, spk=ATAN_LIF()).float()
    for size in ((8, 8), (13, 9)):
        assert is_channels_last(core(values(*size).float()))


def test_bfloat16_values_attend_in_bfloat16() -> None:
    core, x = attention(7).bfloat16(), values(13, 9).bfloat16()
    y = core.attend(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), naive(x.double(), core.double()), atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "sdsa"}, r"unknown attention 'sdsa'; wanted one of sisa, bdsa"),
        ({"num_heads": 4}, r"6 channels do not divide into 4 heads"),
        ({"size": 0}, r"the size of a group is 0; wanted at least 1"),
        ({"partition": "block"}, r"unknown partition 'block'; wanted one of grid, window, full"),
    ],
)
def test_attention_without_meaning_is_refused(settings: dict[str, Any], message: str) -> None:
    plain = {"kind": "sisa", "dim": DIM, "num_heads": HEADS, "size": 4, "neuron": LIF(), "spk": LIF()}
    with pytest.raises(ValueError, match=message):
        grid_attention(**{**plain, **settings})
