"""What every other package of fedsim may use: errors, files, seeds, names, hardware."""
