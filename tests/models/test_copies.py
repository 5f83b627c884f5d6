"""No activation is copied, or converted to another layout, on the way through a model and back."""

import math

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import spimm

COPIES = ("aten::copy_", "aten::cat", "aten::stack")
# Every activation of these models has more values for this batch than their largest weight.
BATCH, LARGEST_WEIGHT = 16, 90_000


def copies(name: str, precision: str, **options: object) -> list[str]:
    """What a training step copies: the op, the shape and the op around it. The profiler sees inside our ops too."""
    torch.manual_seed(0)
    model = spimm.create_model(name, **options).train()
    assert max(parameter.numel() for parameter in model.parameters()) < LARGEST_WEIGHT
    image = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    lower = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")
    with lower, profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        model(image).float().sum().backward()
    found = []
    for event in recorded.events():
        if event.name in COPIES and math.prod(event.input_shapes[0]) > LARGEST_WEIGHT:
            around = event.cpu_parent.name if event.cpu_parent else "the model"
            found.append(f"{event.name} {event.input_shapes[0]} in {around}")
    return found


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "options", [{}, {"attention": "qkca,qkta,ssa"}, {"memory": "packed"}], ids=["plain", "qkca", "packed"]
)
def test_a_training_step_copies_no_activation(options: dict[str, object], precision: str) -> None:
    if precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("torch has no bfloat16 convolution for this processor: copies in float32 are faster")
    found = copies("qkformer_4_96_cifar", precision, **options)
    in_head = ["aten::copy_ [4, 16, 16, 96] in aten::_to_copy"] * 2  # the mean of the last map, and back, in float32
    assert found == (in_head if precision == "bf16" else [])


@pytest.mark.usefixtures("one_thread")
def test_a_copy_would_be_seen() -> None:
    class Transposing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.transpose(1, 2).contiguous().transpose(1, 2)

    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        Transposing()(torch.zeros(4, 300, 400))
    assert [event.input_shapes[0] for event in recorded.events() if event.name in COPIES] == [[4, 400, 300]]
