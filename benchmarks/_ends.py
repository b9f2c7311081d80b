"""Ctrl-C and SIGTERM end a binary at once and with one sentence, from its first import on.

Python runs its handlers between two steps of the main thread, which an import swallows and a compiled loop puts off to its
end. So a thread of its own waits for the signal, and ends the process: rows, models and checkpoints on disk are whole at any
moment, and the next run of the same command goes on from them.
"""

import os
import signal
import socket
import sys
import threading

_ENDS = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143)}
# The socket that signals are written to is closed when it is forgotten.
_waiting: list[socket.socket] = []


def install() -> None:
    """From here on, both signals end this process; must be called on the main thread, and does nothing the second time."""
    if _waiting:
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    _waiting.extend((receiver, sender))
    signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    for number in _ENDS:
        # Whatever the handler does: only a signal that has one is written to the socket.
        signal.signal(number, lambda *_: None)
    threading.Thread(target=_wait, args=(receiver,), daemon=True).start()


def _wait(receiver: socket.socket) -> None:
    while True:
        number = receiver.recv(1)[0]
        if number in _ENDS:
            word, code = _ENDS[signal.Signals(number)]
            # Past Python's own streams, whose locks another thread may hold.
            os.write(2, f"{word}; the same command goes on from what is saved.\n".encode())
            os._exit(code)


def is_starting_binary() -> bool:
    """Whether Python is on its way to `python -m benchmarks.<name>`, whose package it imports first."""
    return sys.argv[:1] == ["-m"]


__all__ = ["install", "is_starting_binary"]
