"""What becomes of a world's state: pure functions from one state to the next."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.budget import spent
from orchestrator.config import RetryConfig
from orchestrator.executors.base import Ended
from orchestrator.state import Attempt, Cause, Status, WorldState

_OUT_OF_MEMORY = (
    "run fewer worlds on a machine (cluster.cpus_per_world, cluster.gpus_per_world), or begin"
    " another run with a smaller training.batch_size, model.hidden or partition.buckets"
)


def adopted(state: WorldState, winner: str | None, *, steps: int = 0, time: str = "") -> WorldState:
    """Return a world's state once what a dead driver left open is settled.

    A world that had failed gets fresh budgets; one whose winner is lost is to train again.

    Args:
        state: as that driver left it.
        winner: the attempt whose weights are committed and count; None: there is none.
        steps: of the furthest committed checkpoint, for an attempt that is open.
        time: when that one was last heard of; UTC, ISO 8601.
    """
    if state.status == "done" and winner == state.winner:
        return state
    attempts = tuple(
        item if item.cause else _closed(item, "stopped", "its driver ended before it", steps, time)
        for item in state.attempts
    )
    return replace(
        state,
        status="done" if winner else "pending",
        winner=winner,
        attempts=attempts,
        forgiven=len(attempts) if state.status == "failed" and not winner else state.forgiven,
    )


def begun(state: WorldState, attempt: str, time: str) -> WorldState:
    """Return the state with one more attempt, which waits or runs."""
    attempts = (*state.attempts, Attempt(name=attempt, started_at=time))
    return replace(state, status="running", attempts=attempts)


def placed(state: WorldState, node: str, time: str) -> WorldState:
    """Return the state with the machine of its last attempt, which starts there now."""
    last = replace(state.attempts[-1], node=node, started_at=time)
    return replace(state, attempts=(*state.attempts[:-1], last))


def finished(state: WorldState, winner: str) -> WorldState:
    """Return the state of a world whose weights are committed."""
    return replace(state, status="done", winner=winner)


def ended(
    state: WorldState,
    cause: Cause,
    message: str,
    *,
    steps: int,
    winner: str | None,
    retry: RetryConfig,
    time: str,
) -> WorldState:
    """Return the state after the end of its last attempt.

    Args:
        state: of a world with an attempt.
        cause: of the end.
        message: what to tell a user about it.
        steps: of the furthest committed checkpoint.
        winner: the attempt whose weights are committed and count; None: there is none.
        retry: the budgets.
        time: UTC, ISO 8601.
    """
    last = _closed(state.attempts[-1], cause, message, steps, time)
    state = replace(state, attempts=(*state.attempts[:-1], last))
    if winner:
        return finished(state, winner)
    failed = cause == "config" or spent(state, retry)
    status: Status = "failed" if failed else "pending"
    return replace(state, status=status)


def judged(event: Ended, *, leaving: bool, committed: bool) -> tuple[Cause, str]:
    """Return the cause and the message of an end, given what else is known.

    Args:
        event: what the executor told.
        leaving: whether the attempt's machine was about to go.
        committed: whether the world's weights are committed.
    """
    cause, message = event.cause, event.message
    if cause == "done" and not committed:
        return "error", "it reported success, but committed no weights"
    if leaving and cause in ("stopped", "error", "hung"):
        return "preemption", f"its machine was about to be taken away; {message or 'it stopped'}"
    if cause == "out_of_memory":
        return cause, f"{message}; {_OUT_OF_MEMORY}"
    return cause, message


def _closed(attempt: Attempt, cause: Cause, message: str, steps: int, time: str) -> Attempt:
    return replace(attempt, cause=cause, message=message, steps=steps, ended_at=time)
