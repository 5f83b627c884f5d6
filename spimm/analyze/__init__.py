"""Instruments: a trace of a running model, its firing rates, operations and energy."""

from spimm.analyze import attention_ops, ttfs_ops  # noqa: F401, register their probes
from spimm.analyze.constants import HOROWITZ_45NM, SPINNAKER, TRUENORTH, Constants, Platform
from spimm.analyze.energy import FORMULAS, Formula, energy, implied_rate
from spimm.analyze.energy_report import EnergyLine, EnergyReport
from spimm.analyze.measure import Analysis, analyze
from spimm.analyze.neuromorphic import (
    PLATFORMS,
    PUBLISHED_CODINGS,
    RATE_CODING,
    CodingCost,
    PublishedCoding,
    coding_table,
    sparsity,
    total_spikes,
)
from spimm.analyze.ops import Probe, Work, probe, probes_of
from spimm.analyze.plots import plot, save_plot
from spimm.analyze.purity import Purity, PurityLine, purity
from spimm.analyze.record import Recorder, record
from spimm.analyze.spk_plots import plot_attended, plot_branches, plot_responses
from spimm.analyze.trace import Input, Layer, Product, SpikeTimes, Trace
from spimm.analyze.ttfs_plots import plot_inactive, plot_potentials, plot_raster, plot_spike_times

__all__ = [
    "FORMULAS",
    "HOROWITZ_45NM",
    "PLATFORMS",
    "PUBLISHED_CODINGS",
    "RATE_CODING",
    "SPINNAKER",
    "TRUENORTH",
    "Analysis",
    "CodingCost",
    "Constants",
    "EnergyLine",
    "EnergyReport",
    "Formula",
    "Input",
    "Layer",
    "Platform",
    "Probe",
    "Product",
    "PublishedCoding",
    "Purity",
    "PurityLine",
    "Recorder",
    "SpikeTimes",
    "Trace",
    "Work",
    "analyze",
    "coding_table",
    "energy",
    "implied_rate",
    "plot",
    "plot_attended",
    "plot_branches",
    "plot_inactive",
    "plot_potentials",
    "plot_raster",
    "plot_responses",
    "plot_spike_times",
    "probe",
    "probes_of",
    "purity",
    "record",
    "save_plot",
    "sparsity",
    "total_spikes",
]
