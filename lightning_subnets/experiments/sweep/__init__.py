"""Many runs for one figure: what they are, how they are run, what came out."""
