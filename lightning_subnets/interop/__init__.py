"""What is read from, and written for, other programs."""
