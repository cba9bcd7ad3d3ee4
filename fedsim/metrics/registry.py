"""The further metrics that ``metrics=`` may name: a new one is a file in this folder and a line here."""

from fedsim.metrics.balanced_accuracy import BalancedAccuracy
from fedsim.metrics.expected_calibration_error import ExpectedCalibrationError
from fedsim.metrics.metric import Metric

FURTHER_METRICS: dict[str, Metric] = {
    "ece": ExpectedCalibrationError(),
    "balanced_accuracy": BalancedAccuracy(),
}
"""The metrics by the names that their columns have, of letters, digits and underscores."""
