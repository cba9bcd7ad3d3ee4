"""Names of files in a run directory that more than one package reads or writes."""

SUMMARY = "summary.json"
PAGE = "report.html"
"""The last file that a run writes: where it is, the run is finished."""
