"""Data sets in one file, in FFCV's format: ``writer`` writes it, ``beton`` checks it, ``loader`` streams it."""
