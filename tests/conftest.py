"""Settings of all tests: where the datasets are, and what Ctrl-C does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# The test data lies beside the checkout where there is any; tests that need it skip with a reason elsewhere.
_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
if _SHARED.is_dir():
    os.environ.setdefault("HARNESS_DATA", str(_SHARED))

# A shell has what it runs in the background ignore Ctrl-C, and so would all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
