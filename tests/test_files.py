"""Files are written whole or not at all, also where the disk takes no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import resource, sys
from pathlib import Path
from harness.errors import InputError
from harness.files import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    write_whole(Path(sys.argv[1]), b"x" * 1000)
except InputError as error:
    print(error.message)
"""


def test_a_disk_that_takes_no_more_leaves_the_old_file(tmp_path: Path) -> None:
    # The limit on file sizes refuses a write like a full disk does: in the middle of the file.
    target = tmp_path / "record.json"
    target.write_text("old")
    command = [sys.executable, "-c", SCRIPT, str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "cannot write" in done.stdout
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
