"""Puts the library into the wheel, and tags the wheel with the platform it was built for.

`PAR_LIBRARY` names a library to take; otherwise the newest build of this checkout is taken, or made by cargo.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAMES = {"darwin": "libpar.dylib", "win32": "par.dll"}


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version, build_data):
        if self.target_name != "wheel" or version == "editable":
            return
        name = NAMES.get(sys.platform, "libpar.so")
        build_data["force_include"][str(self.library(name))] = f"par_runtime/{name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def library(self, name):
        if "PAR_LIBRARY" in os.environ:
            return Path(os.environ["PAR_LIBRARY"]).resolve()
        checkout = Path(self.root).parent.parent
        builds = [checkout / "target" / profile / name for profile in ("release", "fast")]
        builds = sorted((path for path in builds if path.exists()), key=lambda path: path.stat().st_mtime)
        if builds:
            return builds[-1]
        subprocess.run(["cargo", "build", "--profile", "fast", "--lib"], cwd=checkout, check=True)
        return checkout / "target" / "fast" / name
