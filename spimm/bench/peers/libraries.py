"""The libraries that are compared with, imported on demand, and what to install where one is missing."""

import importlib
import types
import warnings
from typing import NamedTuple

NORSE_MISSING = "not installed; it is LGPL-3.0 and so no part of spimm[peers]: pip install norse"


class SpikingJelly(NamedTuple):
    """The modules that are used."""

    functional: types.ModuleType
    neuron: types.ModuleType
    surrogate: types.ModuleType
    qkformer: types.ModuleType
    memopt: types.ModuleType


def spikingjelly() -> SpikingJelly:
    """SpikingJelly. Raises ImportError with what to install where it is missing."""
    try:
        from spikingjelly.activation_based import functional, memopt, neuron, surrogate
        from spikingjelly.activation_based.model import qkformer
    except ImportError as error:
        raise ImportError(f"comparisons need SpikingJelly 2: pip install 'spimm[peers]' ({error})") from error
    return SpikingJelly(functional, neuron, surrogate, qkformer, memopt)


class SpikingJellyData(NamedTuple):
    """The modules of its data sets that are used."""

    utils: types.ModuleType
    cifar10_dvs: types.ModuleType


def spikingjelly_data() -> SpikingJellyData:
    """SpikingJelly's data sets. Raises ImportError with what to install where it is missing."""
    try:
        from spikingjelly.datasets import cifar10_dvs, utils
    except ImportError as error:
        raise ImportError(f"comparisons need SpikingJelly 2: pip install 'spimm[peers]' ({error})") from error
    return SpikingJellyData(utils, cifar10_dvs)


def snntorch() -> types.ModuleType:
    """snnTorch, with its `surrogate`. Raises ImportError with what to install where it is missing."""
    try:
        importlib.import_module("snntorch.surrogate")
        return importlib.import_module("snntorch")
    except ImportError as error:
        raise ImportError(f"this comparison needs snnTorch: pip install 'spimm[peers]' ({error})") from error


def norse() -> types.ModuleType:
    """`norse.torch`. Raises ImportError with what to install where it is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it scripts functions when imported, which torch calls deprecated
            return importlib.import_module("norse.torch")
    except ImportError as error:
        raise ImportError(f"this comparison needs Norse: {NORSE_MISSING} ({error})") from error
