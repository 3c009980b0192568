"""Runs a machine on a thread of its own, so that servers can look at it, halt it and let it go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness.emulators.simulator.machine import Machine
from harness.emulators.simulator.stops import Reason, Stop
from harness.errors import DeviceError

# The core looks for requests at every block of code; this is for a computer that is very busy.
_HALT_SECONDS = 20.0


class Runner:
    """Starts and halts a machine. All methods belong to one thread, the one that serves; the core's thread is inside.

    on_stop: called on the core's thread when the machine stops for a reason of its own.
    on_failure: called there when the simulator itself fails.
    """

    def __init__(
        self, machine: Machine, on_stop: Callable[[Stop], None], on_failure: Callable[[BaseException], None]
    ) -> None:
        self._machine = machine
        self._on_stop = on_stop
        self._on_failure = on_failure
        self._changed = threading.Condition()
        self._running = False
        self._last_stop: Stop | None = None
        threading.Thread(target=self._loop, name="simulated core", daemon=True).start()

    @property
    def running(self) -> bool:
        """Whether the core runs, or sleeps."""
        return self._running

    def resume(self) -> None:
        """Let the core run on."""
        with self._changed:
            self._machine.cancel_stop()
            self._running = True
            self._changed.notify_all()

    def halt(self) -> Stop | None:
        """Halt the core: how it stopped, or None when it was halted already. on_stop is not called for this stop, but
        may just have been for another one."""
        if not self._running:
            return None
        self._machine.request_stop()
        with self._changed:
            if not self._changed.wait_for(lambda: not self._running, _HALT_SECONDS):
                raise DeviceError(f"the simulated core did not halt within {_HALT_SECONDS:.0f} s")
            return self._last_stop

    def step(self) -> Stop:
        """Execute one instruction of a halted core."""
        return self._machine.step()

    @contextmanager
    def paused(self) -> Iterator[Machine]:
        """The machine, halted for as long as the context lasts."""
        stop = self.halt()
        try:
            yield self._machine
        finally:
            if stop is not None and stop.reason is Reason.REQUEST:
                self.resume()

    def _loop(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._running)
                stop = self._machine.run()
                with self._changed:
                    self._last_stop = stop
                    self._running = False
                    self._changed.notify_all()
                if stop.reason is not Reason.REQUEST:
                    self._on_stop(stop)
        except BaseException as error:
            self._on_failure(error)
