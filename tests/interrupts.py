"""Ctrl-C for processes that tests start."""

from __future__ import annotations

import signal


def hears_ctrl_c() -> None:
    """Let a process hear Ctrl-C, as its `preexec_fn`.

    One that is started in the background ignores it, and so do all that it starts.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
