from typing import Any

import pytest
import torch
from torch import nn

from spimm.models.metaspikeformer import ABLATIONS

from .conftest import count, shapes_only, tiny_meta

ABLATION_COUNTS = {
    "no_sep_conv": 30_937_960,
    "channel_mlp": 25_877_992,
    "stage1_2c": 31_830_088,
    "linear_qkv": 27_169_960,
    "linear_proj": 29_945_896,
    "sdsa1": 31_333_864,
    "sdsa2": 28_593_832,
    "sdsa4": 31_333_872,
    "vanilla": 31_333_864,
    "spike_add": 31_333_864,
    "no_pyramid": 26_908_936,
    "transformer": 26_198_392,
}


@pytest.mark.parametrize(
    ("name", "options", "params"),
    [
        ("metaspikeformer_15m", {}, 15_112_208),
        ("metaspikeformer_31m", {}, 31_333_864),
        ("metaspikeformer_55m", {}, 55_350_248),
        ("metaspikeformer_124m", {}, 123_741_160),
        ("metaspikeformer_18m_dvs", {}, 18_262_980),
        ("metaspikeformer_15m", {"num_classes": 0}, 14_751_208),
        ("metaspikeformer_31m", {"num_classes": 0}, 30_852_864),
        ("metaspikeformer_55m", {"num_classes": 0}, 54_709_248),
        ("metaspikeformer_15m", {"distillation": True}, 15_473_208),
        ("metaspikeformer_31m", {"distillation": True}, 31_814_864),
        ("metaspikeformer_55m", {"distillation": True}, 55_991_248),
    ],
)
def test_published_sizes_are_met_to_the_parameter(name: str, options: dict[str, Any], params: int) -> None:
    assert count(shapes_only(name, **options)) == params


def test_every_stage_of_the_31m_size_has_its_published_parameters() -> None:
    model = shapes_only("metaspikeformer_31m")
    assert [count(stage.embed) for stage in model.stages] == [7_200, 41_760, 166_464, 664_704, 1_660_320]
    blocks = [180_576, 711_360, 2 * 2_823_552, 14_328_576, 7_444_800]
    assert [count(stage.blocks) for stage in model.stages] == blocks
    assert count(model.head) == 481_000


@pytest.mark.parametrize("row", ABLATIONS)
def test_every_ablation_has_the_size_that_the_paper_prints(row: str) -> None:
    options, millions, _ = ABLATIONS[row]
    params = count(shapes_only("metaspikeformer_31m", **options))
    assert params == ABLATION_COUNTS[row]
    assert abs(params / 1e6 - millions) < 0.1


@pytest.mark.parametrize("row", ABLATIONS)
def test_every_ablation_computes_and_learns(row: str) -> None:
    options, _, _ = ABLATIONS[row]
    tiny_widths = {"widths": tuple(width // 6 for width in options["widths"])} if "widths" in options else {}
    depths = {"depths": (1,) * len(options.get("depths", range(5)))}
    model = tiny_meta(**{**options, **tiny_widths, **depths}).train()
    x = torch.randn(2, 3, 32, 32)
    logits = model(x)
    nn.functional.cross_entropy(logits, torch.tensor([0, 9])).backward()
    assert logits.shape == (2, 10) and logits.std() > 0
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
