from collections.abc import Sequence
from typing import Any

import pytest

from spimm.layers import GroupAttention
from spimm.models.spikeatconv import VARIANTS
from spimm.neurons import MultiLIF, Neuron

from .conftest import count, shapes_only

SIZES = {
    "spikeatconv_tiny_table": ((64, 128, 256, 512), (1, 3, 6, 1)),
    "spikeatconv_tiny_text": ((64, 128, 256, 512), (1, 3, 6, 1)),
    "spikeatconv_base_table": ((96, 192, 384, 768), (2, 6, 8, 2)),
    "spikeatconv_base_text": ((128, 256, 512, 1024), (2, 6, 12, 2)),
    "spikeatconv_large_table": ((128, 256, 512, 1024), (2, 6, 12, 2)),
    "spikeatconv_large_text": ((160, 320, 640, 1280), (2, 6, 16, 2)),
}


def recounted(widths: Sequence[int], depths: Sequence[int], *, branches: int, qkv: int) -> int:
    """Weights of convolutions, 2 numbers a channel of each norm, 169 positions a head, and the classifier."""
    half, first = widths[0] // 2, widths[0]
    total = 27 * half + 2 * half + 9 * half * first + 2 * first
    for before, d, depth in zip([first, *widths], widths, depths, strict=False):
        convnext = 8 * d**2 + 49 * branches * d + 2 * (d + 4 * d + d)
        attention = (qkv + 1) * d**2 + 2 * (qkv * d + d) + 169 * d // 32
        ffn = 8 * d**2 + 2 * (4 * d + d)
        total += depth * (convnext + attention + ffn) + before * d + 2 * d
    return total + 1001 * widths[-1] - widths[-1] + 1000


@pytest.mark.parametrize(
    ("size", "options", "params"),
    [
        (size, options, counts[i])
        for options, counts in [
            ({"form": "sum"}, (15_093_062, 53_691_106, 116_027_936, 213_692_030)),
            ({}, (15_459_974, 54_566_050, 117_495_584, 215_902_910)),
            ({"form": "sum", "attention": "bdsa"}, (12_952_262, 45_858_658, 98_961_440, 182_113_790)),
        ]
        for i, size in enumerate(("tiny_table", "base_table", "large_table", "large_text"))
    ],
)
def test_sizes_are_counted_to_the_parameter(size: str, options: dict[str, Any], params: int) -> None:
    name = f"spikeatconv_{size}"
    assert count(shapes_only(name, **options)) == params
    qkv, branches = 0 if "attention" in options else 3, 1 if "form" in options else 4
    assert recounted(*SIZES[name], branches=branches, qkv=qkv) == params


@pytest.mark.parametrize("name", SIZES)
def test_widths_and_depths_are_those_of_the_name(name: str) -> None:
    config = VARIANTS[name].config
    assert (config.widths, config.depths) == SIZES[name]
    assert (config.kernel_size, config.expansion, config.mlp_ratio, config.head_dim, config.group_size) == (
        7, 4, 4, 32, 7,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "printed", "least", "most"),
    [
        ("spikeatconv_tiny_table", 14.6, 0, 3.5),
        ("spikeatconv_base_table", 53.4, 0, 3.5),
        ("spikeatconv_large_table", 116.1, 0, 3.5),
        ("spikeatconv_base_text", 53.4, 80, 120),
        ("spikeatconv_large_text", 116.1, 80, 120),
    ],
)
def test_sizes_of_the_table_meet_the_printed_parameters_and_those_of_the_text_do_not(
    name: str, printed: float, least: float, most: float
) -> None:
    percent = 100 * abs(count(shapes_only(name, form="sum")) / (printed * 1e6) - 1)
    assert least <= percent <= most


def test_the_spike_free_counterpart_has_the_same_skeleton() -> None:
    free, spiking = shapes_only("spikeatconv_base_table_ann"), shapes_only("spikeatconv_base_table", form="sum")
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in (free, spiking)]
    assert shapes[0] == shapes[1]
    assert not any(isinstance(part, Neuron | MultiLIF) for part in free.modules())


def test_maps_halve_at_every_stage_and_groups_hold_49_tokens() -> None:
    model = shapes_only("spikeatconv_tiny_table")
    assert [info["reduction"] for info in model.feature_info] == [4, 8, 16, 32]
    for stage, info, depth in zip(model.stages, model.feature_info, (1, 3, 6, 1), strict=True):
        cores = [part for part in stage.modules() if isinstance(part, GroupAttention)]
        side = 224 // int(info["reduction"])
        assert len(cores) == depth
        for core in cores:
            assert core.num_heads == int(info["num_chs"]) // 32
            assert core.groups(side, side).unique(return_counts=True)[1].tolist() == [49] * (side * side // 49)
