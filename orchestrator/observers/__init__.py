"""Who is told how a run goes, beside the terminal: one small protocol, and what implements it."""

from orchestrator.observers.base import Observer

__all__ = ["Observer"]
