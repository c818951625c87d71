"""What a driver makes of the worlds that the one before it left, by what is on storage."""

from __future__ import annotations

from datetime import datetime, timedelta

from orchestrator import transitions
from orchestrator.run import Run
from orchestrator.state import WorldState, moment
from workers.errors import StorageError, StorageUnreachable
from workers.storage import is_number


def adopted(run: Run, state: WorldState, now: datetime) -> WorldState:
    """Return a world's state once what a dead driver left open is settled; saves nothing.

    An attempt whose end nobody saw ended when it was last heard of: the driver may have been dead
    for days.

    Args:
        run: the run, whose lease the caller holds.
        state: of the world, as that driver left it.
        now: the time of day, with its zone.

    Raises:
        StorageUnreachable: nothing is known.
    """
    winner, _ = run.accept(state.index)
    if all(attempt.cause for attempt in state.attempts):
        return transitions.adopted(state, winner)
    newest = run.paths.newest_checkpoint(state.index)
    steps, time = newest.step if newest else 0, _last_heard(run, state, now)
    return transitions.adopted(state, winner, steps=steps, time=time.isoformat(timespec="seconds"))


def _last_heard(run: Run, state: WorldState, now: datetime) -> datetime:
    """Return when a world's last attempt told something; `now` if that is not known."""
    last = state.attempts[-1]
    began = moment(last.started_at)
    try:
        told = run.progress(state.index, last.name).get("seconds", 0.0)
    except StorageUnreachable:
        raise
    except StorageError:
        return now
    if began is None or not is_number(told):
        return now
    # Clocks of two machines may differ.
    seconds = max(0.0, min(told, (now - began).total_seconds()))
    return began + timedelta(seconds=seconds)
