"""The settings `watch.*`: who is told how a run goes."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

FROM_ENVIRONMENT = "env:"
"""What a secret setting begins with that only names an environment variable."""
_CLASS = re.compile(r"[\w.]+:\w+")
_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """Who is told how a run goes, beside the terminal."""

    tensorboard: str | None = "auto"
    """Curves for TensorBoard: `auto` (in the run's own folder, if that is on a local disk and
    tensorboard is installed), a local folder, or null: none."""
    observers: tuple[str, ...] = ()
    """More observers, each as `module:Class`: modules on the Python path, classes that are made
    without arguments."""
    # It may hold credentials: no message shows it.
    notify: str | None = field(default=None, repr=False)
    """Told when the run is done, a world or the run failed, or an attempt stalled: a command, an
    http(s) URL, or `env:NAME`, the environment variable that holds either; null: nobody."""

    def problems(self) -> list[str]:
        """Return one sentence for each setting that cannot work."""
        found = []
        if self.tensorboard is not None and (not self.tensorboard or "://" in self.tensorboard):
            found.append(
                "watch.tensorboard: expected auto, null or a local folder, found"
                f" {self.tensorboard or 'nothing'}"
            )
        found += [
            f"watch.observers: expected module:Class, found {name}"
            for name in self.observers
            if not _CLASS.fullmatch(name)
        ]
        wrong = notify_problem(self.notify) if self.notify is not None else None
        return [*found, f"watch.notify: {wrong}"] if wrong else found


def notify_problem(target: str) -> str | None:
    """Return what is wrong with a value of `notify`, without the value; None: nothing."""
    expected = "expected a command, an http(s) URL, env:NAME or null, found"
    if target.startswith(FROM_ENVIRONMENT):
        name = target.removeprefix(FROM_ENVIRONMENT)
        return None if _NAME.fullmatch(name) else f"{expected} env: without a name"
    if re.match(r"\w+://", target):
        return None if is_url(target) else f"{expected} a URL of another kind"
    try:
        words = shlex.split(target)
    except ValueError:
        return f"{expected} a quotation that does not end"
    return None if words and words[0] else f"{expected} nothing"


def may_be_secret(target: str | None) -> bool:
    """Return whether a value of `notify` may hold credentials: it is a command or a URL itself."""
    return target is not None and not target.startswith(FROM_ENVIRONMENT)


def is_url(target: str) -> bool:
    """Return whether a value of `notify` is a URL."""
    return target.startswith(("http://", "https://"))
