"""Images as people have them on disk: one file for each form. What they read is a ``Labelled``."""
