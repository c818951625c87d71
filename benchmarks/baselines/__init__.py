"""What a user would train instead of worlds, each in plain Torch."""
