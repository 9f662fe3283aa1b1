"""Many runs: the figures of the papers, as sweeps and as reports."""
