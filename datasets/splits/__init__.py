"""``split=``: from a source to clients, in steps that compose. ``pipeline.py`` runs them, ``steps.py`` defines them."""
