"""`python -m orchestrator.cli` is the command `manyworlds`."""

from __future__ import annotations

import sys

from orchestrator.cli import main

sys.exit(main())
