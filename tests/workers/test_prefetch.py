from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.prefetch import prefetch


def prefetching() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "manyworlds-prefetch"]


class Source:
    """Counts upwards for ever, and lets a test wait until it was asked for a number."""

    def __init__(self) -> None:
        self.asked = 0
        self.closed = False
        self._changed = threading.Condition()

    def __iter__(self) -> Iterator[int]:
        try:
            while True:
                with self._changed:
                    self.asked += 1
                    self._changed.notify_all()
                yield self.asked - 1
        finally:
            self.closed = True

    def wait_until_asked(self, times: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.asked >= times, timeout=60)


@given(st.lists(st.none() | st.integers()), st.integers(1, 5))
def test_items_come_in_order(items: list[int | None], depth: int) -> None:
    assert list(prefetch(items, depth)) == items


def test_items_are_made_ahead_but_no_more_than_asked_for() -> None:
    source = Source()
    ready = prefetch(iter(source), 3)
    assert next(ready) == 0
    # One was taken, three wait in the queue, one waits to enter it.
    assert source.wait_until_asked(5)
    assert next(ready) == 1
    assert source.wait_until_asked(6)
    ready.close()
    assert source.asked == 6


def test_an_error_comes_where_its_item_would_have() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ZeroDivisionError("the third")

    ready = prefetch(items(), 8)
    assert [next(ready), next(ready)] == [1, 2]
    with pytest.raises(ZeroDivisionError, match="the third"):
        next(ready)
    assert not prefetching()


def test_closing_ends_the_threads_of_nested_prefetches() -> None:
    source = Source()

    def doubled() -> Iterator[int]:
        inner = prefetch(iter(source), 1)
        try:
            for item in inner:
                yield 2 * item
        finally:
            inner.close()

    ready = prefetch(doubled(), 1)
    assert [next(ready), next(ready)] == [0, 2]
    assert len(prefetching()) == 2
    ready.close()
    assert not prefetching()
    assert source.closed


def test_the_thread_ends_with_the_items() -> None:
    assert list(prefetch(range(3), 1)) == [0, 1, 2]
    assert not prefetching()


def test_a_consumer_that_waits_can_be_told_to_end() -> None:
    held = threading.Event()

    def items() -> Iterator[int]:
        held.wait(60)
        yield 1

    def halt() -> None:
        held.set()
        raise InterruptedError("enough")

    ready = prefetch(items(), 1, waiting=halt)
    with pytest.raises(InterruptedError, match="enough"):
        next(ready)
    assert not prefetching()
