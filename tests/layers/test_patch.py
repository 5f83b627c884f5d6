import pytest
import torch
from torch import nn

from spimm.layers import PATCH_FORMS, SPEDS
from spimm.neurons import LIF

from .conftest import is_channels_last, lively, steps

DIM = 16
every_form = pytest.mark.parametrize("form", PATCH_FORMS)
STRIDES = {"imagenet": 4, "cifar": 1, "half": 2, "dvs": 8, "pool_first": 2, "pool_last": 2}


def embedding(form: str, **settings) -> SPEDS:
    settings = {"shortcut": "spike_add", "neuron_fn": LIF, **settings}
    return lively(SPEDS(8, DIM, PATCH_FORMS[form], **settings))


@every_form
@pytest.mark.parametrize(("height", "width"), [(32, 32), (27, 31), (9, 16)])
def test_height_and_width_shrink_by_the_stride_of_the_form_rounded_up(form: str, height: int, width: int) -> None:
    stride = STRIDES[form]
    assert PATCH_FORMS[form].stride == stride
    y = embedding(form)(steps(2, 1, 8, height, width))
    assert y.shape == (2, 1, DIM, -(-height // stride), -(-width // stride))
    assert is_channels_last(y)


@every_form
def test_spikes_of_both_paths_are_added(form: str) -> None:
    values = set(embedding(form)(steps(4, 2, 8, 16, 16)).unique().tolist())
    assert values == {0, 1, 2}


@every_form
def test_without_the_deformed_shortcut_the_output_is_spikes(form: str) -> None:
    layer = embedding(form, deformed_shortcut=False)
    assert not any("shortcut" in name for name, _ in layer.named_parameters())
    assert set(layer(steps(4, 2, 8, 16, 16)).unique().tolist()) == {0, 1}


@every_form
def test_with_the_membrane_shortcut_every_convolution_but_one_on_the_image_sees_spikes(form: str) -> None:
    layer, inputs = embedding(form, shortcut="membrane"), []
    for module in layer.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    y = layer(steps(4, 2, 8, 16, 16))
    assert len(y.unique()) > 10
    on_image = 0 if PATCH_FORMS[form].tap == 0 else 1
    analogue = [x for x in inputs if not ((x == 0) | (x == 1)).all()]
    assert len(analogue) == on_image
    assert len(inputs) == len(PATCH_FORMS[form].divisors) + 1


@every_form
@pytest.mark.parametrize("shortcut", ["spike_add", "membrane"])
def test_a_shared_input_equals_the_repeated_one(form: str, shortcut) -> None:
    layer, x = embedding(form, shortcut=shortcut).eval(), steps(1, 2, 8, 11, 13)
    repeated = layer(x.expand(3, -1, -1, -1, -1))
    torch.testing.assert_close(layer(x, 3).expand_as(repeated), repeated, atol=1e-5, rtol=1e-5)


def test_the_shortcut_starts_where_the_form_says() -> None:
    widths = {form: embedding(form).shortcut.conv.in_channels for form in PATCH_FORMS}
    assert widths == {"imagenet": 8, "cifar": 8, "half": 8, "dvs": 4, "pool_first": 8, "pool_last": 8}
    strides = {form: embedding(form).shortcut.conv.stride[0] for form in PATCH_FORMS}
    assert strides == {"imagenet": 2, "cifar": 1, "half": 2, "dvs": 4, "pool_first": 2, "pool_last": 2}


def test_a_width_that_the_form_cannot_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="embedding width is 12; this form needs a multiple of 8"):
        SPEDS(2, 12, PATCH_FORMS["dvs"], shortcut="spike_add", neuron_fn=LIF)
