"""Faults injected for real into runs on a cluster of three machines: `make chaos`."""
