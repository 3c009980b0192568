"""Settings of all tests: where the datasets are."""

from __future__ import annotations

import os
from pathlib import Path

# The test data lies beside the checkout where there is any; tests that need it skip with a reason elsewhere.
_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
if _SHARED.is_dir():
    os.environ.setdefault("HARNESS_DATA", str(_SHARED))
