"""From an ELF to a board that runs it: one pyOCD session for real probes and, through a plugin, for emulators.

session.py is the entrance. rsp.py, stubs.py, core.py, rom_table.py, flash.py and plugin.py make a GDB remote stub look
like a debug probe to pyOCD; targets.py describes boards to it; hardware.py picks real probes; faults.py explains what
went wrong.
"""

# pyOCD loads its plugins, ours included, while this module of it is imported. Coming first, it finds none of ours half
# imported; any other order would be circular.
import pyocd.probe.aggregator  # noqa: F401
