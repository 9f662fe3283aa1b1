"""Many tasks on one seed: ``config`` reads the file, ``learning`` learns and tests, ``picture`` draws."""
