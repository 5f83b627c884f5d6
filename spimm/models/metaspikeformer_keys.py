"""Key map of Meta-SpikeFormer's published checkpoints.

Facts about the format: stages are ConvBlock1_1, ConvBlock1_2, ConvBlock2_1 and ConvBlock2_2 (one block each), block3
and block4, opened by downsample1_1, 1_2, 2, 3 and 4; q, k and v have RepConvs of their own; the MLP has 1-d
convolutions; the classifiers are `head` and, in distilled models, `head_kd`.
"""

from collections.abc import Iterator

from spimm.models.metaspikeformer import MetaSpikeFormer

# Of each stage: the name of its downsampling layer, and of its blocks.
_STAGES = (
    ("downsample1_1", ("ConvBlock1_1.0",)),
    ("downsample1_2", ("ConvBlock1_2.0",)),
    ("downsample2", ("ConvBlock2_1.0", "ConvBlock2_2.0")),
    ("downsample3", tuple(f"block3.{i}" for i in range(6))),
    ("downsample4", tuple(f"block4.{i}" for i in range(2))),
)
_REPCONV = {
    "expand": "body.0",
    "expand_norm": "body.1.bn",
    "depthwise": "body.2.0",
    "project": "body.2.1",
    "project_norm": "body.2.2",
}


def module_names(model: MetaSpikeFormer) -> dict[str, list[str]]:
    """Our modules with weights -> the authors' prefixes, several where ours joins them (q, k and v)."""
    names = {"head": ["head"], "distilled_head": ["head_kd"]}
    for i, (downsample, blocks) in enumerate(_STAGES):
        names[f"stages.{i}.embed.unit.conv"] = [f"{downsample}.encode_conv"]
        names[f"stages.{i}.embed.unit.norm"] = [f"{downsample}.encode_bn"]
        for j, theirs in enumerate(blocks):
            ours = f"stages.{i}.blocks.{j}"
            pairs = _conv_block(theirs) if model.config.stage_kinds()[i][0] == "conv" else _transformer_block(theirs)
            names |= {f"{ours}.{name}": prefixes for name, prefixes in pairs}
    return names


def _conv_block(theirs: str) -> Iterator[tuple[str, list[str]]]:
    for name, part in (
        ("expand.conv", "pwconv1"),
        ("expand.norm", "bn1"),
        ("mix.conv.0", "dwconv"),
        ("mix.conv.1", "pwconv2"),
        ("mix.norm", "bn2"),
    ):
        yield f"sep_conv.branch.{name}", [f"{theirs}.Conv.{part}"]
    for layer, number in (("expand", 1), ("contract", 2)):
        yield f"channel_conv.branch.{layer}.conv", [f"{theirs}.conv{number}"]
        yield f"channel_conv.branch.{layer}.norm", [f"{theirs}.bn{number}"]


def _transformer_block(theirs: str) -> Iterator[tuple[str, list[str]]]:
    for unit, letters in (("qkv", ("q", "k", "v")), ("proj", ("proj",))):
        units = [f"{theirs}.attn.{letter}_conv" for letter in letters]
        for ours, part in _REPCONV.items():
            yield f"attention.branch.{unit}.conv.{ours}", [f"{name}.0.{part}" for name in units]
        yield f"attention.branch.{unit}.norm", [f"{name}.1" for name in units]
    for layer, number in (("expand", 1), ("contract", 2)):
        yield f"mlp.branch.{layer}.conv", [f"{theirs}.mlp.fc{number}_conv"]
        yield f"mlp.branch.{layer}.norm", [f"{theirs}.mlp.fc{number}_bn"]


def key_map(model: MetaSpikeFormer) -> dict[str, list[str]]:
    """Our key -> the authors' keys whose tensors, joined along the first dimension, make it."""
    own, names = model.state_dict(), module_names(model)
    found = {}
    for key in own:
        module, _, tensor = key.rpartition(".")
        if module in names:
            found[key] = [f"{theirs}.{tensor}" for theirs in names[module]]
    return found
