"""Tests of what `make chaos` writes."""
