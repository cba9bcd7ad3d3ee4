"""Aggregation of a cohort's models to one model, on the server.

``aggregation=`` names one. It applies to the shared part of the model; metrics, and further records of a method, are
always averaged.
"""

from fedsim.aggregation.aggregation import Aggregate, Aggregation, aggregation_of
from fedsim.aggregation.averaging import RunningAverage
from fedsim.aggregation.mean import Mean
from fedsim.aggregation.pooled_moments import PooledMoments
from fedsim.aggregation.robust import Krum, Median, MultiKrum, TrimmedMean

__all__ = [
    "Aggregate",
    "Aggregation",
    "Krum",
    "Mean",
    "Median",
    "MultiKrum",
    "PooledMoments",
    "RunningAverage",
    "TrimmedMean",
    "aggregation_of",
]
