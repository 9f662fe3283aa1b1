"""What a run leaves on the disk: its directory, its config, its summary and its pictures."""
