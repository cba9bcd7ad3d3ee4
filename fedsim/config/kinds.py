"""Kinds of settings by which no number of a run is decided, or none that is compared; every other setting decides one.

Here they are sorted once for all who ask: tables of runs, runs that go on or are made again, published rows, captions.
"""

OF_THE_RUN = ("out_dir", "resume", "published")
"""Which run it is, and what a paper has for it"""
COMPUTED = ("device", "engine", "tracker", "download", "join_timeout")
"""Where and how it is computed, and who watches"""
SAID = ("quiet", "verbose", "pictures")
"""What is printed and drawn"""
KEPT = ("checkpoint_every", "checkpoint_minutes", "checkpoint_keep")
"""What is kept for a run that goes on"""
MEASURED = ("metrics", "diagnostics", "diagnostics_every", "diagnostics_images")
"""What is measured beside accuracies"""
OF_THE_PLACE = ("data_dir", "round_timeout")
"""Where the images lie, and how long devices have: no number depends on them while the images are the same and all
devices answer in time"""

NOT_COMPARED = ("seed", *OF_THE_RUN, *COMPUTED, *SAID, *KEPT, *MEASURED)
"""In which the runs of one row of a table may differ"""
OF_THE_CALL = (*COMPUTED, *OF_THE_PLACE, *SAID, *KEPT)
"""Which may be others where a run goes on: whether the images are the same is checked there"""
