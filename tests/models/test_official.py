from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import spimm
from spimm.models.official import official_keys

from .conftest import lively, shapes_only, tiny, tiny_meta

TINY = {"embed_dim": 16, "num_heads": 2, "num_steps": 3}
NAMES = ["qkformer_4_384_cifar", "qkformer_10_384", "qkformer_2_256_dvs"]
META_NAMES = [f"metaspikeformer_{size}" for size in ("15m", "31m", "55m", "124m")]
TINY_META = {"widths": (4, 8, 16, 16, 32), "num_heads": 2, "num_steps": 3}


def official(model: nn.Module, family: str = "qkformer") -> dict[str, Tensor]:
    """The model's weights as its authors' checkpoint would hold them."""
    tensors: dict[str, Tensor] = {}
    own = model.state_dict()
    flat_layers = {"qkformer": ("tssa", "ssa", "attn"), "metaspikeformer": ("mlp",)}[family]
    for ours, theirs in official_keys(model, family).items():
        parts = own[ours].chunk(len(theirs)) if own[ours].dim() else [own[ours]] * len(theirs)
        for name, part in zip(theirs, parts, strict=True):
            flat = part.dim() == 4 and not set(flat_layers).isdisjoint(name.split("."))  # Conv1d
            tensors[name] = (part.squeeze(-1) if flat else part).contiguous().clone()
    return tensors


def tiny_of(name: str) -> nn.Module:
    return lively(spimm.create_model(name, **TINY)).eval()


@pytest.mark.parametrize("name", NAMES + META_NAMES)
def test_every_weight_has_its_place_and_none_is_named_twice(name: str) -> None:
    model = shapes_only(name)
    keys = official_keys(model, name.split("_")[0])
    assert keys.keys() == model.state_dict().keys()
    theirs = [key for parts in keys.values() for key in parts]
    assert len(theirs) == len(set(theirs))


@pytest.mark.parametrize(
    ("name", "present", "absent"),
    [
        (
            "qkformer_4_384_cifar",
            ["patch_embed1.proj1_conv.weight", "patch_embed2.proj3_conv.weight", "patch_embed3.proj4_bn.running_var",
             "patch_embed1.proj_res_conv.weight", "stage1.0.tssa.q_conv.weight", "stage2.0.tssa.proj_conv.bias",
             "stage3.1.ssa.v_bn.weight", "stage3.1.mlp.mlp2_conv.bias", "head.weight"],
            ["stage3.0.attn.q_conv.weight", "patch_embed1.proj2_conv.weight", "stage1.0.tssa.v_conv.weight"],
        ),
        (
            "qkformer_10_384",
            ["patch_embed1.proj2_conv.weight", "patch_embed2.proj3_conv.weight", "stage3.6.attn.v_conv.weight",
             "stage2.1.tssa.k_bn.bias", "stage1.0.mlp.fc1_conv.bias"],
            ["stage3.0.ssa.q_conv.weight", "stage3.7.attn.q_conv.weight", "stage1.0.mlp.mlp1_conv.weight"],
        ),
        (
            "qkformer_2_256_dvs",
            ["patch_embed1.proj3_conv.weight", "patch_embed2.proj_conv.weight", "patch_embed2.proj4_conv.weight",
             "stage1.0.tssa.q_conv.weight", "stage2.0.ssa.v_conv.weight"],
            ["patch_embed2.proj3_conv.weight", "patch_embed3.proj_conv.weight", "stage3.0.ssa.q_conv.weight"],
        ),
        (
            "metaspikeformer_15m",
            ["downsample1_1.encode_conv.bias", "ConvBlock1_2.0.Conv.dwconv.weight", "ConvBlock2_2.0.bn2.running_var",
             "downsample4.encode_bn.weight", "block3.5.attn.k_conv.0.body.1.bn.running_mean",
             "block3.0.attn.q_conv.0.body.2.1.weight", "block4.1.attn.proj_conv.1.weight",
             "block4.1.mlp.fc2_conv.bias"],
            ["block3.6.attn.q_conv.1.weight", "block4.2.mlp.fc1_conv.bias", "ConvBlock1_1.0.conv1.bias",
             "head_kd.weight", "downsample5.encode_conv.weight"],
        ),
    ],
)  # fmt: skip
def test_keys_are_those_of_the_published_checkpoints(name: str, present: list[str], absent: list[str]) -> None:
    theirs = {key for parts in official_keys(shapes_only(name), name.split("_")[0]).values() for key in parts}
    assert set(present) <= theirs
    assert not set(absent) & theirs


@pytest.mark.parametrize("name", NAMES)
def test_weights_in_the_authors_form_give_the_same_outputs(name: str) -> None:
    model = tiny_of(name)
    loaded = spimm.load_official(name, official(model), **TINY)
    assert not loaded.training
    x = torch.randn(2, model.config.in_chans, 32, 32)
    assert torch.equal(loaded(x), model(x))
    assert model(x).std() > 0
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


@pytest.mark.parametrize("name", META_NAMES)
def test_checkpoints_of_every_size_of_metaspikeformer_fit(name: str) -> None:
    tensors = official(shapes_only(name, num_classes=7, distillation=True), "metaspikeformer")
    with torch.device("meta"):
        loaded = spimm.load_official(name, tensors)
    assert (loaded.head.out_features, loaded.distilled_head.out_features) == (7, 7)
    assert loaded.config.widths == spimm.models.metaspikeformer.VARIANTS[name].config.widths


@pytest.mark.parametrize("distillation", [False, True])
@pytest.mark.parametrize("name", META_NAMES)
def test_weights_in_the_form_of_the_authors_of_metaspikeformer_give_the_same_outputs(
    name: str, distillation: bool
) -> None:
    model = lively(spimm.create_model(name, distillation=distillation, num_classes=7, **TINY_META)).eval()
    tensors = official(model, "metaspikeformer")
    assert ("head_kd.weight" in tensors) == distillation
    assert tensors["block3.0.mlp.fc1_conv.weight"].shape == (64, 16, 1)
    loaded = spimm.load_official(name, tensors, **TINY_META)
    assert loaded.config.distillation == distillation and not loaded.training
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x), model(x)) and model(x).std() > 0
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_a_distilled_checkpoint_does_not_fit_where_distillation_is_turned_off() -> None:
    tensors = official(tiny_meta(distillation=True, depths=(1, 1, 2, 6, 2)), "metaspikeformer")
    with pytest.raises(ValueError, match=r"unexpected: head_kd\.bias, head_kd\.weight"):
        spimm.load_official("metaspikeformer_31m", tensors, distillation=False, **TINY_META)


def test_legacy_is_refused_where_there_is_nothing_to_reproduce() -> None:
    with pytest.raises(ValueError, match=r"legacy is True; the published code of metaspikeformer has no fault"):
        spimm.load_official("metaspikeformer_31m", {}, legacy=True)


def test_the_number_of_classes_is_that_of_the_checkpoint() -> None:
    tensors = official(tiny(num_classes=7))
    assert spimm.load_official("qkformer_4_384_cifar", tensors, **TINY).num_classes == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_model_takes_the_dtype_of_the_weights(dtype: torch.dtype) -> None:
    tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in official(tiny()).items()}
    model = spimm.load_official("qkformer_4_384_cifar", tensors, **TINY)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model(torch.randn(2, 3, 8, 8, dtype=dtype)).isfinite().all()


def wrappings(tensors: dict[str, Tensor]) -> list[dict[str, Any]]:
    parallel = {f"module.{key}": value for key, value in tensors.items()}
    compiled = {f"_orig_mod.{key}": value for key, value in parallel.items()}
    forms = [{"model": tensors, "epoch": 3}, {"state_dict": parallel}, {"module": tensors}, parallel, compiled]
    return [*forms, {"state_dict": {"model": parallel}}]


@pytest.mark.parametrize("form", range(6))
def test_wrapped_and_parallel_checkpoints_are_unwrapped(form: int, tmp_path: Path) -> None:
    model = tiny()
    torch.save(wrappings(official(model))[form], tmp_path / "checkpoint.pth")
    loaded = spimm.load_official("qkformer_4_384_cifar", tmp_path / "checkpoint.pth", **TINY)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded(x), model(x))


def test_safetensors_are_read_as_well(tmp_path: Path) -> None:
    model = tiny()
    save_file(official(model), tmp_path / "checkpoint.safetensors")
    loaded = spimm.load_official("qkformer_4_384_cifar", str(tmp_path / "checkpoint.safetensors"), **TINY)
    assert torch.equal(loaded.head.weight, model.head.weight)


def test_missing_unexpected_and_wrong_shaped_keys_are_listed() -> None:
    tensors = official(tiny())
    del tensors["stage1.0.tssa.k_conv.weight"]
    tensors["stage9.weight"] = torch.zeros(1)
    tensors["patch_embed1.proj_bn.bias"] = torch.zeros(5)
    with pytest.raises(ValueError) as caught:
        spimm.load_official("qkformer_4_384_cifar", tensors, **TINY)
    message = str(caught.value)
    assert "the checkpoint for qkformer_4_384_cifar does not fit" in message
    assert "missing: stages.0.blocks.0.attention.branch.qkv.conv.weight" in message
    assert "unexpected: stage9.weight" in message
    assert "wrong-shaped: stages.0.embed.units.0.norm.bias (5,), expected (2,)" in message


def test_a_part_of_a_joined_weight_with_the_wrong_shape_is_listed() -> None:
    tensors = official(tiny())
    tensors["stage1.0.tssa.k_conv.weight"] = torch.zeros(4, 9, 1)
    with pytest.raises(ValueError, match=r"stage1\.0\.tssa\.k_conv\.weight|stages\.0\.blocks\.0\.0\.branch\.qkv\.conv"):
        spimm.load_official("qkformer_4_384_cifar", tensors, **TINY)


def test_a_checkpoint_for_other_data_is_refused() -> None:
    with pytest.raises(ValueError, match=r"missing: .*unexpected: "):
        spimm.load_official("qkformer_4_384_cifar", official(tiny_of("qkformer_10_384")), **TINY)


def test_a_file_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nothing\.pth"):
        spimm.load_official("qkformer_4_384_cifar", tmp_path / "nothing.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("kept", [0, 100, -50])
def test_a_truncated_file_is_refused_by_name(kept: int, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"checkpoint.{suffix}"
    tensors = official(tiny())
    torch.save(tensors, path) if suffix == "pth" else save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"checkpoint\.{suffix}"):
        spimm.load_official("qkformer_4_384_cifar", path, **TINY)


class Payload:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("unpickled",)


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": Payload()}, tmp_path / "checkpoint.pth")
    with pytest.raises(Exception, match=r"(?i)weights.only|checkpoint\.pth"):
        spimm.load_official("qkformer_4_384_cifar", tmp_path / "checkpoint.pth", **TINY)
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"network": {"head.weight": torch.zeros(2)}}, {"epoch": 3}])
def test_a_file_that_holds_no_state_dict_is_refused_by_name(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=r"checkpoint\.pth"):
        spimm.load_official("qkformer_4_384_cifar", tmp_path / "checkpoint.pth", **TINY)


def test_legacy_warns_of_the_leak_between_samples_and_has_it() -> None:
    tensors = {k: v.double() if v.is_floating_point() else v for k, v in official(tiny()).items()}
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    correct = spimm.load_official("qkformer_4_384_cifar", tensors, **TINY)
    with pytest.warns(UserWarning, match=r"legacy=True: .*samples of a batch influence each other"):
        legacy = spimm.load_official("qkformer_4_384_cifar", tensors, legacy=True, **TINY)
    assert not torch.equal(correct(x), legacy(x))
    torch.testing.assert_close(torch.cat([legacy(image) for image in x.split(1)]), correct(x))


@pytest.mark.parametrize("key", [0, 1.5, None, ("head", "weight"), b"head.weight"])
def test_keys_that_are_no_text_are_named(key: Any) -> None:
    with pytest.raises(ValueError, match=r"not all entries are tensors under a text: 1 are not, such as "):
        spimm.load_official("qkformer_4_384_cifar", {**official(tiny()), key: torch.zeros(2)}, **TINY)
