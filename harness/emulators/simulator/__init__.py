"""The built-in simulator. machine.py is a library; `python -m harness.emulators.simulator` is the emulator around it."""
