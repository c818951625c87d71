"""Trying again what a server did not do this time."""

from __future__ import annotations

import itertools
import logging
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from workers.storage.wording import without_secrets

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

_QUIET_TRIES = 5
"""Tries, of about 5 seconds together, before the log says why it takes so long."""
_S3 = re.compile(r"AWS Error (\w+)(?: \(HTTP status (-?\d+)\))? during")
_S3_PASSING = frozenset(
    "INTERNAL_FAILURE NETWORK_CONNECTION REQUEST_TIMEOUT SERVICE_UNAVAILABLE SLOW_DOWN"
    " THROTTLING".split()
)
_GCS = re.compile(r"google::cloud::Status\((\w+)")
_GCS_PASSING = frozenset(
    "ABORTED DEADLINE_EXCEEDED INTERNAL RESOURCE_EXHAUSTED UNAVAILABLE".split()
)
_CURL = re.compile(r"curlCode: (\d+)|CURL error \[(\d+)\]")
_CURL_LASTING = frozenset(("1", "3", "58", "59", "60", "77", "83", "90", "91"))
"""No such protocol, no URL, and certificates that do not fit."""
_STATUS_PASSING = frozenset(("-1", "408", "425", "429", "500", "502", "503", "504"))
"""-1: the response was cut, so that its XML could not be read."""


class Torn(OSError):
    """An object that is not as long as what was written, or changed while it was read."""


def is_transient(error: BaseException) -> bool:
    """Return whether the same operation may succeed later.

    True for throttling, a server's own failures (5xx), connections that are refused, reset or
    cut, and timeouts. False for permissions, credentials, missing files and buckets, local
    disks, and whatever is not known.
    """
    if isinstance(error, ConnectionError | TimeoutError | Torn):
        return True
    if not isinstance(error, OSError) or error.errno is not None:
        return False
    message = str(error)
    if (curl := _CURL.search(message)) and (curl[1] or curl[2]) in _CURL_LASTING:
        return False
    if found := _S3.search(message):
        return found[1] in _S3_PASSING or found[2] in _STATUS_PASSING
    found = _GCS.search(message)
    return found is not None and found[1] in _GCS_PASSING


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How an operation is tried again: after waits that double up to a cap, with jitter."""

    budget: float = 120.0
    """Seconds of trying, from the first failure on."""
    first: float = 0.2
    """Seconds before the second try at most; at least half of it."""
    longest: float = 10.0
    """Seconds between two tries at most."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    random: Callable[[], float] = random.Random().random
    """Draws from [0, 1)."""

    def run(self, operation: Callable[[], _Result]) -> _Result:
        """Return what `operation` returns, which is called anew after each transient error.

        Raises:
            OSError: the first error that is not transient, or the last one within the budget.
        """
        failing_since: float | None = None
        for number in itertools.count():
            try:
                return operation()
            except OSError as error:
                failing_since = self.clock() if failing_since is None else failing_since
                left = failing_since + self.budget - self.clock()
                if left <= 0 or not is_transient(error):
                    raise
                if number == _QUIET_TRIES:
                    _log.warning("trying for %.0f s more: %s", left, without_secrets(str(error)))
            self.sleep(min(self._wait(number), left))
        raise AssertionError("the count of tries has no end")

    def _wait(self, number: int) -> float:
        longest = min(self.longest, self.first * 2.0 ** min(number, 30))
        return longest * (1 + self.random()) / 2
