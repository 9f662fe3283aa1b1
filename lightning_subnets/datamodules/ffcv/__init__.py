"""Data sets in one file, in FFCV's format: written, checked, streamed."""
