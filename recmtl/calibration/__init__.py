"""Calibrated probabilities: methods, one file each, and the calibration of a run."""

from recmtl.calibration.calibration import METHODS, Calibration, Method, fit_calibration
from recmtl.calibration.isotonic import Isotonic
from recmtl.calibration.platt import Platt
from recmtl.calibration.temperature import Temperature

__all__ = ["METHODS", "Calibration", "Isotonic", "Method", "Platt", "Temperature", "fit_calibration"]
