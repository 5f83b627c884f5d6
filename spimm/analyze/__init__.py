"""Instruments: a trace of a running model, its firing rates, operations and energy."""

from spimm.analyze.constants import HOROWITZ_45NM, Constants
from spimm.analyze.energy import FORMULAS, EnergyLine, EnergyReport, energy
from spimm.analyze.measure import Analysis, analyze
from spimm.analyze.ops import Probe, Work, probe
from spimm.analyze.plots import plot, save_plot
from spimm.analyze.record import Recorder, record
from spimm.analyze.trace import Input, Layer, Product, Trace

__all__ = [
    "FORMULAS",
    "HOROWITZ_45NM",
    "Analysis",
    "Constants",
    "EnergyLine",
    "EnergyReport",
    "Input",
    "Layer",
    "Probe",
    "Product",
    "Recorder",
    "Trace",
    "Work",
    "analyze",
    "energy",
    "plot",
    "probe",
    "record",
    "save_plot",
]
