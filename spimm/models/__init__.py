"""Models by name."""

from spimm.models import metaspikeformer, qkformer, resnet, spikeatconv, ttfs  # noqa: F401, register their variants
from spimm.models.features import FeatureList
from spimm.models.official import load_official
from spimm.models.registry import ModelCard, create_model, list_models, model_card, register_model
from spimm.models.timm_bridge import register_with_timm
from spimm.weights import load_weights, save_weights

__all__ = [
    "FeatureList",
    "ModelCard",
    "create_model",
    "list_models",
    "load_official",
    "load_weights",
    "model_card",
    "register_model",
    "register_with_timm",
    "save_weights",
]
