"""What models tell of their layers, and options that name several numbers."""

import pytest
import torch

import spimm
from spimm.models.qkformer import CIFAR10_DVS_ABLATIONS, CIFAR100_ABLATIONS


@pytest.mark.parametrize("name", spimm.list_models())
def test_every_parameter_has_a_depth_and_every_depth_a_parameter(name):
    with torch.device("meta"):
        model = spimm.create_model(name)
    depths = model.layer_depths()
    assert list(depths) == [label for label, _ in model.named_parameters()]
    assert set(depths.values()) == set(range(len(model.layers()) + 1))
    assert depths["head.weight"] == len(model.layers())
    assert next(iter(depths.values())) == 0


def test_depths_rise_along_the_stages_embeddings_and_blocks_each_being_a_layer():
    with torch.device("meta"):
        depths = spimm.create_model("qkformer_10_384").layer_depths()
    opening = {stage: depths[f"stages.{stage}.embed.units.0.conv.weight"] for stage in range(3)}
    assert opening == {0: 0, 1: 2, 2: 5}  # behind 1 block, and behind 2 more
    assert {depth for name, depth in depths.items() if name.startswith("stages.2.blocks.6.")} == {12}
    assert depths["head.bias"] == 13


def test_learned_neurons_behind_the_last_block_belong_to_the_head():
    model = spimm.create_model("metaspikeformer_mnist", neuron="plif", distillation=True)
    depths = model.layer_depths()
    behind = [name for name in depths if not name.startswith("stages.")]
    assert len(behind) > 4 and {depths[name] for name in behind} == {len(model.layers())}


def test_several_numbers_may_be_written_as_one_text():
    with torch.device("meta"):
        written = spimm.create_model("metaspikeformer_mnist", widths="8,16,32,64,80", depths="1,1,0,1,1")
        given = spimm.create_model("metaspikeformer_mnist", widths=(8, 16, 32, 64, 80), depths=(1, 1, 0, 1, 1))
    assert written.config == given.config
    with pytest.raises(ValueError, match="widths is '8,wide'; wanted whole numbers with commas between them"):
        spimm.create_model("metaspikeformer_mnist", widths="8,wide")


@pytest.mark.parametrize(
    ("name", "classes", "rows"),
    [("qkformer_4_384_cifar", 100, CIFAR100_ABLATIONS), ("qkformer_2_256_dvs", 10, CIFAR10_DVS_ABLATIONS)],
)
def test_ablations_of_qkformer_have_the_parameters_that_the_paper_prints(name, classes, rows):
    for row in rows.values():
        with torch.device("meta"):
            model = spimm.create_model(name, num_classes=classes, **row.options)
        if row.millions is not None:
            assert round(sum(weight.numel() for weight in model.parameters()) / 1e6, 2) == row.millions
