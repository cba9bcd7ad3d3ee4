"""From ``key=value`` words to checked settings, and from settings to the objects that they name."""
