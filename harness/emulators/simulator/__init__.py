"""The built-in simulator: machine.py is a library, `python -m harness.emulators.simulator` the emulator around it."""
