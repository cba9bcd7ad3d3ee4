"""How the server makes one model of the models that a cohort sends back.

``aggregation=`` names one. It is about the part of the model that travels; metrics, and whatever else a method lets its
clients tell, stay averages.
"""

from fedsim.aggregation.aggregation import Aggregate, Aggregation, aggregation_of
from fedsim.aggregation.averaging import RunningAverage
from fedsim.aggregation.mean import Mean
from fedsim.aggregation.robust import Krum, Median, MultiKrum, TrimmedMean

__all__ = [
    "Aggregate",
    "Aggregation",
    "Krum",
    "Mean",
    "Median",
    "MultiKrum",
    "RunningAverage",
    "TrimmedMean",
    "aggregation_of",
]
