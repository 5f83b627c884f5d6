"""How images have to look for a model, and what its ends are called: timm's `pretrained_cfg`."""

from typing import TYPE_CHECKING, Any

from torch import nn

from spimm.models.image_model import ImageModel

if TYPE_CHECKING:
    from spimm.models.registry import ModelCard

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
_IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# (channels, side) of a card's images -> mean and std on the 0..1 scale of the data that such models are for
USUAL_STATISTICS: dict[tuple[int, int], Statistics] = {
    (3, 224): _IMAGENET,
    (3, 64): _IMAGENET,
    (3, 32): ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),  # CIFAR-10
    (1, 28): ((0.1307,), (0.3081,)),  # MNIST
    (1, 8): ((0.3053,), (0.3759,)),  # scikit-learn's digits
}
LARGE = 224
"""Side from which images are cropped and resized with bicubic weights, as the recipes for ImageNet do."""


def card_config(card: "ModelCard") -> dict[str, Any]:
    """timm's `pretrained_cfg` of a model's name: size and normalisation of its images, and classes.

    Frames of events, pixels in [0, 1] (`unit_input`) and images of a size without usual data enter as they are: mean 0,
    std 1.
    """
    channels, side = card.input_size[0], card.input_size[1]
    as_it_is = (0.0,) * channels, (1.0,) * channels
    usual = USUAL_STATISTICS.get((channels, side), as_it_is)
    mean, std = as_it_is if card.unit_input else usual
    large = side >= LARGE
    return {
        "architecture": card.name,
        "input_size": card.input_size,
        "fixed_input_size": card.fixed_size,
        "interpolation": "bicubic" if large else "bilinear",
        "crop_pct": 224 / 256 if large else 1.0,
        "mean": mean,
        "std": std,
        "num_classes": card.num_classes,
        "paper_name": card.paper,
    }


def model_config(card: "ModelCard", model: nn.Module, image_size: int | None = None) -> dict[str, Any]:
    """`card_config`, and what `model` has of its own: channels, size of images and last map, classifiers, first conv.

    Images of another number of channels than the card's have the mean of its means and stds in each. image_size: side
    of the images, if not that of the card.
    """
    config = card_config(card)
    if not isinstance(model, ImageModel):
        return config
    channels, *sides = card.input_size
    sides = [model.image_size or image_size or side for side in sides]
    if model.in_chans != channels:
        config |= {key: (sum(config[key]) / channels,) * model.in_chans for key in ("mean", "std")}
    last = model.feature_info[-1]
    return config | {
        "input_size": (model.in_chans, *sides),
        "pool_size": tuple(last.get("size", -(-side // last["reduction"])) for side in sides),
        "classifier": model.classifiers[0] if len(model.classifiers) == 1 else model.classifiers,
        "first_conv": next(name for name, part in model.named_modules() if isinstance(part, nn.Conv2d)),
    }
