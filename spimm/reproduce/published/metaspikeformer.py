"""Meta-SpikeFormer (Yao et al., ICLR 2024)."""

from spimm.models.metaspikeformer import ABLATIONS
from spimm.reproduce.counts import parameters
from spimm.reproduce.rows import Row, Setup

_CLASSIFY, _ABLATION = "ImageNet table", "ablation table"
_STEP1, _STEP4 = Setup("metaspikeformer_cifar10_jpeg"), Setup("metaspikeformer_cifar10_jpeg_t4")
_GPUS = "8 GPUs in the paper"
_SIZES = "tests/models/test_metaspikeformer_sizes.py::test_every_ablation_has_the_size_that_the_paper_prints"
_TASK = "{} is not built here; wanted {}, and ImageNet weights of the backbone"

# size: (parameters as printed; top-1 and mJ at T = 1; the same at T = 4)
_IMAGENET = {
    "15m": (15.1, (71.8, 4.0), (74.1, 16.7)),
    "31m": (31.3, (75.4, 7.8), (77.2, 32.8)),
    "55m": (55.4, (78.0, None), (79.7, None)),
    "55m-distilled": (55.4, (79.1, 13.0), (80.0, 52.4)),
}
# row of ABLATIONS: mJ
_ENERGIES = {
    "no_sep_conv": 5.5,
    "channel_mlp": 6.3,
    "stage1_2c": 7.4,
    "linear_qkv": 6.0,
    "linear_proj": 7.1,
    "sdsa1": 7.2,
    "sdsa2": 6.3,
    "sdsa4": 7.7,
    "vanilla": None,
    "spike_add": 7.8,
    "no_pyramid": 7.4,
    "transformer": 5.4,
}
_SMALL = ("channel_mlp", "sdsa1", "sdsa2", "sdsa4", "vanilla", "spike_add")


def _imagenet(size: str, steps: int) -> Row:
    params, *results = _IMAGENET[size]
    top1, energy = results[steps // 4]
    recipe = "_".join(("metaspikeformer_imagenet", *size.split("-"), *(["t4"] if steps == 4 else [])))
    return Row(
        f"metaspikeformer/imagenet/{size}-t{steps}",
        f"T = {steps}",
        _CLASSIFY,
        {"top1": top1, **({} if energy is None else {"energy": energy}), "params": params},
        full=Setup(recipe.replace("_15m", "")),
        scaled={1: _STEP1, 4: _STEP4}[steps] if size == "15m" else None,
        counts={"params": parameters(f"metaspikeformer_{size.partition('-')[0]}")},
        needs=_GPUS,
    )


def _ablation(name: str) -> Row:
    options, params, top1 = ABLATIONS[name]
    energy = _ENERGIES[name]
    figures = {"top1": top1, **({} if energy is None else {"energy": energy}), "params": params}
    if name == "no_sep_conv":
        figures["saved"] = 29.5
    changes = tuple(f"model_options.{key}={value}" for key, value in options.items())
    return Row(
        f"metaspikeformer/imagenet/ablation-{name.replace('_', '-')}",
        "T = 1",
        _ABLATION,
        figures,
        full=Setup(f"metaspikeformer_imagenet_{name}"),
        scaled=Setup("metaspikeformer_ablation", changes) if name in _SMALL else None,
        counts={"params": parameters("metaspikeformer_31m", _SIZES, **options)},
        needs=_GPUS,
    )


def _task(data: str, name: str, what: str, needs: str, source: str = "", **figures: float) -> Row:
    table = source or f"{'COCO' if data == 'coco' else 'ADE20K'} table"
    return Row(f"metaspikeformer/{data}/{name}", what, table, figures, needs=needs)


_DETECT = _TASK.format("Mask R-CNN", "COCO 2017 (118,287 images)")
_SEGMENT = _TASK.format("the segmentation head", "ADE20K (20,210 images)")
_VOC = "appendix C.4 (values from memory, not checked)"
_YOLO = "appendix C.2 (values from a third party's table)"

ROWS = (
    *(_imagenet(size, steps) for size in _IMAGENET for steps in (1, 4)),
    Row(
        "metaspikeformer/imagenet/ablation-base",
        "T = 1",
        _ABLATION,
        {"top1": 75.4, "energy": 7.8, "params": 31.3},
        full=Setup("metaspikeformer_imagenet_31m"),
        scaled=Setup("metaspikeformer_ablation"),
        counts={"params": parameters("metaspikeformer_31m")},
        needs=_GPUS,
    ),
    *(_ablation(name) for name in ABLATIONS),
    Row(
        "metaspikeformer/imagenet/ablation-cnn",
        "convolutional blocks alone, T = 1",
        _ABLATION,
        {"top1": 72.5, "energy": 2.9, "params": 36.0},
        needs="the paper does not say how its network of 36.0 M is built",
    ),
    Row(
        "metaspikeformer/hardvs/18m-t8",
        "T = 8",
        "HAR-DVS table",
        {"top1": 47.5, "params": 18.3},
        full=Setup("metaspikeformer_har_dvs"),
        scaled=Setup("nmnist"),
        counts={"params": parameters("metaspikeformer_18m_dvs")},
        needs="its settings are not published",
    ),
    _task("coco", "mask-rcnn-15m-t1", "Mask R-CNN, T = 1", _DETECT, map50=44.0, energy=49.5, params=34.9),
    _task("coco", "mask-rcnn-55m-t1", "Mask R-CNN, T = 1", _DETECT, map50=51.2, energy=140.8, params=75.0),
    *(
        _task(
            "coco",
            f"yolo-t{steps}",
            f"YOLO, T = {steps}",
            "neither the network of 16.8 M nor its training is published",
            _YOLO,
            map50=map50,
            energy=energy,
            params=16.8,
        )
        for steps, map50, energy in ((1, 45.0, 34.8), (4, 50.3, 70.7))
    ),
    *(
        _task("ade20k", f"{size}-t{steps}", f"T = {steps}", _SEGMENT, miou=miou, energy=energy, params=params)
        for size, params, steps, miou, energy in (
            ("15m", 16.5, 1, 32.3, 22.1),
            ("15m", 16.5, 4, 33.6, 88.1),
            ("55m", 58.9, 1, 34.8, 46.6),
            ("55m", 58.9, 4, 35.3, 183.6),
        )
    ),
    *(
        _task("voc2012", f"{size}-t4", "T = 4", _SEGMENT.replace("ADE20K (20,210 images)", "VOC 2012"), _VOC, **figures)
        for size, figures in (("15m", {"miou": 58.1, "params": 16.5}), ("55m", {"miou": 61.1, "params": 58.9}))
    ),
)
