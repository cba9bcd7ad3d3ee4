"""Tables, pictures and pages of finished runs: ``python -m fedsim.report``, ``python -m fedsim.tune``."""
