"""Makes what firmware.robot boots: an image of the tests' little network, its build id, and the board's platform.

python tests/renode/prepare.py FOLDER
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from firmware_images import tiny

from harness import boards
from harness.emulators.renode import platform_description
from harness.files import cache_dir
from harness.toolchain.platformio import build

BOARD = "nucleo-f746"


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    board = boards.load(BOARD)
    firmware = build(tiny(), board, cache_dir=cache_dir())
    shutil.copy(firmware.elf, folder / "firmware.elf")
    (folder / "build-id.txt").write_text(firmware.build_id)
    (folder / "board.repl").write_text(platform_description(board, folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
