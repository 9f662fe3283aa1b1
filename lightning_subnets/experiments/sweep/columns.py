"""The columns of ``results.csv`` beside the line, its place on the axes, and the seed."""

# Of a run's summary.json, by the same names: accuracies are fractions, times seconds, units_on_paths a JSON object.
NUMBERS = ("test_accuracy", "test_top5", "test_loss", "kept", "total", "log10_paths", "log10_trace", "seconds")
MEASURED = (*NUMBERS, "units_on_paths", "epochs", "steps", "method", "weights", "weights_digest", "device")
VERSIONS = ("torch", "torchvision", "lightning", "lightning_subnets")
# All that no axis can be called by.
COLUMNS = ("line", "seed", "status", "error", *MEASURED, "finished", *VERSIONS, "directory", "command")
