"""Settings of all tests: the datasets beside the checkout, and a cache that outlives one test but not the run's machine."""

from __future__ import annotations

import os
from pathlib import Path

# The test data lies beside the checkout where there is any; tests that need it skip with a reason elsewhere.
_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
if _SHARED.is_dir():
    os.environ.setdefault("HARNESS_DATA", str(_SHARED))
