"""``split=``: how a source becomes clients, in steps that compose. ``pipeline.py`` runs them, ``steps.py`` says what
they are."""
