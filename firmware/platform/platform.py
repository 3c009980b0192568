"""Our PlatformIO development platform: one that needs PlatformIO's registry only for a toolchain that is not on PATH.

PlatformIO gets every tool from its registry, SCons included. Where arm-none-eabi-gcc is on PATH nothing needs to be
fetched: the toolchain package is dropped, and the tool-scons package is made from the SCons that is installed beside
PlatformIO. The project option `custom_toolchain` decides: path, registry, or auto (path where there is one).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from platformio.dependencies import get_core_dependencies
from platformio.package.meta import PackageSpec
from platformio.platform.base import PlatformBase
from platformio.project.exception import ProjectError

TOOLCHAIN = "toolchain-gccarmnoneeabi"


class Harness_cortexmPlatform(PlatformBase):  # the name that PlatformIO derives from platform.json
    def configure_default_packages(self, options: dict[str, Any], targets: list[str]) -> None:
        """Called by PlatformIO before it installs any package, and before it looks for tool-scons."""
        source = options.get("custom_toolchain", "auto")
        if source not in ("auto", "path", "registry"):
            raise ProjectError(f"custom_toolchain is '{source}'; it can be auto, path or registry")
        on_path = shutil.which("arm-none-eabi-gcc") is not None
        if source == "path" and not on_path:
            raise ProjectError("custom_toolchain is path, but arm-none-eabi-gcc is not on PATH")
        if source == "registry" or not on_path:
            self.packages[TOOLCHAIN]["optional"] = False
        else:
            del self.packages[TOOLCHAIN]  # an optional one would be put on PATH where it happens to be installed
        self._provide_scons()
        super().configure_default_packages(options, targets)

    def _provide_scons(self) -> None:
        """Makes tool-scons of the installed SCons, unless there is one; without SCons the registry has it."""
        requirement = get_core_dependencies()["tool-scons"]
        if self.pm.get_package(PackageSpec(owner="platformio", name="tool-scons", requirements=requirement)):
            return
        if importlib.util.find_spec("SCons") is None:
            return
        version = requirement.lstrip("~^=")
        identity = {"name": "tool-scons", "version": version}
        # The owner is what makes PlatformIO take it for its own package instead of asking the registry.
        owner = {"owner": "platformio", "id": None, "name": "tool-scons", "requirements": None, "uri": None}
        files = {
            "package.json": json.dumps(identity),
            ".piopm": json.dumps({"type": "tool", **identity, "spec": owner}),
            ".piokeep": "",  # PlatformIO's clean-up leaves it alone
            "scons.py": "import sys\n\nimport SCons.Script\n\nsys.exit(SCons.Script.main())\n",
        }
        packages = Path(self.pm.ensure_dir_exists(self.pm.package_dir))
        # Written aside and renamed, so that builds at the same time see all of it or none.
        staging = Path(tempfile.mkdtemp(prefix="tool-scons-", dir=packages.parent))
        try:
            for name, text in files.items():
                (staging / name).write_text(text, encoding="utf-8")
            with contextlib.suppress(OSError):  # another build was faster
                staging.rename(packages / f"tool-scons-{version}")
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        self.pm.memcache_reset()
