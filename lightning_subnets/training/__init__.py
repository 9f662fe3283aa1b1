"""Training with Lightning.

Start with ``module.SubnetModule``, the LightningModule: it masks a network, trains it, and adds the callbacks that
every run needs. ``callbacks`` and ``loggers`` hold a class per file. ``checkpoint`` reads checkpoints, ``resuming``
continues runs from them, and ``lightning_internals`` has every access to private parts of the Trainer.

This room may import the library, ``datamodules`` and ``subnet_file``, but not ``interop`` and not a command.
"""
