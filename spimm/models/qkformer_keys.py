"""Key map of QKFormer's published checkpoints (ImageNet, CIFAR and DVS forms).

Facts about the format: embeddings are patch_embed{i} with conv and norm pairs `proj*_conv`, `proj*_bn`, numbered in a
way that depends on the data set; blocks are stage{i}.{j} with attention `tssa` (token) or `ssa` (`attn` in the ImageNet
form); q, k and v have convolutions of their own; the layers of the MLP are `mlp1` and `mlp2` (`fc1` and `fc2` in the
ImageNet form).
"""

from collections.abc import Iterator

from spimm.models.qkformer import QKFormer

LEGACY_WARNING = (
    "legacy=True: in QKFormer's published code the projection neuron of the last stage integrates over time and batch "
    "together, so that samples of a batch influence each other; published accuracies depend on it. Outputs now depend "
    "on the other samples in the batch and on their order."
)

# Patch form -> names of its units in order.
_UNIT_NAMES = {
    "imagenet": ("proj", "proj1", "proj2"),
    "cifar": ("proj", "proj1"),
    "half": ("proj", "proj1"),
    "dvs": ("proj", "proj1", "proj2", "proj3"),
    "pool_first": ("proj3", "proj4"),
    "pool_last": ("proj3", "proj4"),
}
_NORM_KEYS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def unit_names(model: QKFormer) -> dict[str, list[str]]:
    """Our units -> the authors' prefixes (`stage1.0.tssa.q` for `q_conv`, `q_bn`, `q_lif`), several where joined."""
    config = model.config
    names: dict[str, list[str]] = {}
    first = config.patch_forms[0]
    for i, form in enumerate(config.patch_forms):
        theirs = ("proj", "proj4") if first == "dvs" and form == "pool_last" else _UNIT_NAMES[form]
        for j, unit in enumerate(theirs):
            names[f"stages.{i}.embed.units.{j}"] = [f"patch_embed{i + 1}.{unit}"]
        if config.deformed_shortcut:
            names[f"stages.{i}.embed.shortcut"] = [f"patch_embed{i + 1}.proj_res"]
        for j in range(config.depths[i]):
            kind = config.attention[i]
            attention = {"qkta": "tssa", "qkca": "tssa", "ssa": "attn" if first == "imagenet" else "ssa"}[kind]
            ours, theirs_block = f"stages.{i}.blocks.{j}", f"stage{i + 1}.{j}"
            branches = "qkv" if kind == "ssa" else "qk"
            names[f"{ours}.attention.branch.qkv"] = [f"{theirs_block}.{attention}.{branch}" for branch in branches]
            names[f"{ours}.attention.branch.core"] = [f"{theirs_block}.{attention}.attn"]
            names[f"{ours}.attention.branch.proj"] = [f"{theirs_block}.{attention}.proj"]
            layer = "fc" if first == "imagenet" else "mlp"
            names[f"{ours}.mlp.branch.expand"] = [f"{theirs_block}.mlp.{layer}1"]
            names[f"{ours}.mlp.branch.contract"] = [f"{theirs_block}.mlp.{layer}2"]
    return names


def key_map(model: QKFormer) -> dict[str, list[str]]:
    """Our key -> the authors' keys whose tensors, joined along the first dimension, make it."""
    own = model.state_dict()
    return {ours: theirs for ours, theirs in _pairs(model) if ours in own}


def _pairs(model: QKFormer) -> Iterator[tuple[str, list[str]]]:
    for ours, theirs in unit_names(model).items():
        for key in ("weight", "bias"):
            yield f"{ours}.conv.{key}", [f"{name}_conv.{key}" for name in theirs]
        for key in _NORM_KEYS:
            yield f"{ours}.norm.{key}", [f"{name}_bn.{key}" for name in theirs]
    yield "head.weight", ["head.weight"]
    yield "head.bias", ["head.bias"]
