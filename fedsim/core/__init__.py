"""What every other room may use: errors, files, seeds, names, hardware."""
