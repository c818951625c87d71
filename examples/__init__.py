"""Examples that run on what is already installed."""
