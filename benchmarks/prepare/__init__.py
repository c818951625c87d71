"""What `prepare` costs, and what it leaves of the quality: see `__main__`."""
