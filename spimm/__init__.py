"""SPiking IMage Models: spiking vision networks by name, trained, measured and fast.

>>> import spimm
>>> model = spimm.create_model("qkformer_4_384_cifar", num_classes=100)
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from spimm.models import create_model, list_models, load_official, load_weights, model_card, save_weights

__all__ = [
    "__version__",
    "create_model",
    "list_models",
    "load_official",
    "load_weights",
    "model_card",
    "save_weights",
]


def __getattr__(name: str) -> Any:
    """Public functions are imported when first used, so that `import spimm` stays quick."""
    if name in __all__:
        return getattr(importlib.import_module("spimm.models"), name)
    raise AttributeError(f"module 'spimm' has no attribute {name!r}")
