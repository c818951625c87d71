"""Measurements side by side with peers; nothing here is part of the installed packages."""
