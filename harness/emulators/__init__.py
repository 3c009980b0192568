"""Boards that are programs: every emulator is a process with a GDB server and a serial port (base.py)."""
