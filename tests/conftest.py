"""Settings of all tests: where the datasets are, what Ctrl-C does, and which examples are tried."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from hypothesis import HealthCheck, settings

# The test data lies beside the checkout where there is any; tests that need it skip with a reason elsewhere.
_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
if _SHARED.is_dir():
    os.environ.setdefault("HARNESS_DATA", str(_SHARED))

# A shell has what it runs in the background ignore Ctrl-C, and so would all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run: a failure is one of the change at hand, and comes again. Time is no figure of these
# tests, whatever else the computer does. `pytest --hypothesis-profile=explore` tries others.
_SLOW_IS_FINE = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}
settings.register_profile("repeatable", derandomize=True, **_SLOW_IS_FINE)
settings.register_profile("explore", print_blob=True, **_SLOW_IS_FINE)
settings.load_profile("repeatable")
