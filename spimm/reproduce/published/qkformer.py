"""QKFormer (Zhou et al., NeurIPS 2024)."""

from spimm.models.qkformer import CIFAR10_DVS_ABLATIONS, CIFAR100_ABLATIONS, Ablation
from spimm.reproduce.counts import parameters
from spimm.reproduce.rows import Row, Setup

_SIZES = "tests/models/test_qkformer.py::test_published_sizes_are_met_to_the_parameter"
_ATTENTIONS = "tests/models/test_qkformer.py::test_the_ablations_on_attention_have_their_published_sizes"
_GPUS = "8 V100 in the paper"
_DVS_MODEL, _CIFAR_MODEL = "qkformer_2_256_dvs", "qkformer_4_384_cifar"
_SPIKFORMER = "Spikformer is not built here"


def _imagenet(name: str, width: int, steps: int, top1: float, energy: float, needs: str, **more: float) -> Row:
    params = {384: 16.47, 512: 29.08, 768: 64.96}[width]
    suffix = {"t4": "", "t1": "_t1", "384": "_384px"}.get(name.split("-")[-1])
    return Row(
        f"qkformer/imagenet/{name}",
        f"T = {steps}",
        "ImageNet table",
        {"top1": top1, **more, "energy": energy, "params": params},
        full=None if suffix is None else Setup(f"qkformer_imagenet_10_{width}{suffix}"),
        counts={"params": parameters(f"qkformer_10_{width}")},
        needs=needs,
    )


def _ablation(data: str, name: str, ablation: Ablation) -> Row:
    recipe = {"cifar100": "qkformer_cifar100", "cifar10dvs": "qkformer_cifar10_dvs"}[data]
    figures, counts = {"top1": ablation.top1}, {}
    if name == "plif_attention":
        figures["time_ratio"] = 1.3
    if ablation.millions is not None:
        figures["params"] = ablation.millions
        model, more = (_CIFAR_MODEL, {"num_classes": 100}) if data == "cifar100" else (_DVS_MODEL, {})
        counts["params"] = parameters(model, _ATTENTIONS, **more, **ablation.options)
    return Row(
        f"qkformer/{data}/ablation-{name.replace('_', '-')}",
        ", ".join(f"{key}={value}" for key, value in ablation.options.items()),
        "ablations",
        figures,
        full=Setup(f"{recipe}_{name}"),
        counts=counts,
        needs="a GPU",
    )


_RATES = ("q_rate", "k_rate", "mask_rate", "masked_rate", "proj_rate", "expand_rate", "reduce_rate")


def _rates(stage: int, *values: float) -> Row:
    """Firing rates within the block of a stage, as printed for CIFAR-100."""
    return Row(
        f"qkformer/cifar100/rates-stage{stage}",
        f"firing rates of stage {stage}",
        "table of firing rates",
        dict(zip(_RATES, values, strict=True)),
        needs="the network trained on CIFAR-100 (row 4-384-t4), then `spimm analyze RUN`",
    )


def _events(data: str, steps: int, top1: float) -> Row:
    recipe = {"dvs128": "qkformer_dvs_gesture", "cifar10dvs": "qkformer_cifar10_dvs"}[data]
    count = parameters(_DVS_MODEL, _SIZES, num_classes=11) if data == "dvs128" else parameters(_DVS_MODEL)
    return Row(
        f"qkformer/{data}/2-256-t{steps}",
        f"T = {steps}",
        "table of event data",
        {"top1": top1, "params": 1.50},
        full=Setup(recipe + ("_t10" if steps == 10 else "")),
        scaled=Setup("nmnist_qkformer") if (data, steps) == ("cifar10dvs", 16) else None,
        counts={"params": count},
        needs="a GPU",
    )


ROWS = (
    _imagenet("10-384-t4", 384, 4, 78.80, 15.13, _GPUS),
    _imagenet("10-512-t4", 512, 4, 82.04, 21.99, _GPUS),
    _imagenet("10-768-t4", 768, 4, 84.22, 38.91, _GPUS),
    _imagenet("10-768-t1", 768, 1, 81.69, 8.52, _GPUS),
    _imagenet(
        "10-768-t4-288",
        768,
        4,
        85.25,
        64.27,
        "`spimm eval runs/qkformer_imagenet_10_768 --image-size 288 --crop-fraction 1` after training at 224",
    ),
    _imagenet("10-768-t4-384", 768, 4, 85.65, 113.64, "the weights at 224", top5=97.74),
    Row(
        "qkformer/cifar10/4-384-t4",
        "T = 4",
        "CIFAR table",
        {"top1": 96.18, "params": 6.74},
        full=Setup("qkformer_cifar"),
        scaled=Setup("cifar10_jpeg"),
        counts={"params": parameters(_CIFAR_MODEL)},
        needs="a GPU",
    ),
    Row(
        "qkformer/cifar100/4-384-t4",
        "T = 4",
        "CIFAR table",
        {"top1": 81.15, "params": 6.74},
        full=Setup("qkformer_cifar100"),
        counts={"params": parameters(_CIFAR_MODEL, _SIZES, num_classes=100)},
        needs="a GPU",
    ),
    _rates(1, 0.0432, 0.1784, 0.3477, 0.0832, 0.1478, 0.0518, 0.2733),
    _rates(2, 0.0231, 0.0847, 0.2655, 0.0350, 0.0577, 0.0246, 0.1869),
    _events("dvs128", 16, 98.6),
    _events("dvs128", 10, 98.3),
    _events("cifar10dvs", 16, 84.0),
    _events("cifar10dvs", 10, 83.8),
    *(_ablation("cifar100", name, ablation) for name, ablation in CIFAR100_ABLATIONS.items()),
    *(_ablation("cifar10dvs", name, ablation) for name, ablation in CIFAR10_DVS_ABLATIONS.items()),
    *(
        Row(f"qkformer/{data}/ablation-{name}", what, "ablations", {"top1": top1}, needs=_SPIKFORMER)
        for name, what, cifar, dvs in (
            ("spikformer", "Spikformer", 78.21, 80.90),
            ("spikformer-speds", "Spikformer with SPEDS", 80.26, 82.20),
            ("spikformer-no-scale", "Spikformer without scale", 76.95, 79.30),
        )
        for data, top1 in (("cifar100", cifar), ("cifar10dvs", dvs))
    ),
    *(
        Row(
            f"qkformer/module/memory-{side}x{side}",
            f"{side}x{side} tokens",
            "figure on memory",
            {"qkta_memory": qkta, "ssa_memory": ssa},
            needs="a GPU, and the width of the module that was measured, which is not printed",
        )
        for side, qkta, ssa in ((50, 2.47, 26.44), (100, 10.35, 391.77), (200, 40.46, 6143.06))
    ),
    *(
        Row(
            f"qkformer/module/time-batch{batch}",
            f"10-512, T = 4, {batch} images",
            "appendix",
            {"inference_time": inference, "training_time": training},
            needs="an RTX 2080; `spimm bench train_step_224` times the like on any machine",
        )
        for batch, inference, training in ((6, 1.82, 3.62), (1, 1.33, 2.72))
    ),
)
