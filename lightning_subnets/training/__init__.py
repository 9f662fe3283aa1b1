"""Training with Lightning: the module, its callbacks and loggers, checkpoints, resuming, ranks."""
