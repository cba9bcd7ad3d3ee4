"""The models of finished runs: loaded, used for predictions, and exported."""
