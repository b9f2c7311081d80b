"""Who is there, before JAX joins the processes.

JAX aborts every process, by a stack trace, where two come as the same one, and ends a run whose processes were told different
counts in as many ways as there are. So process 0 first hears at its own port from each other what it was started as. What does
not fit is named in all of them, and once all are there nobody else can reach those that run: it is a stranger to them.
"""

import contextlib
import dataclasses
import os
import select
import socket
import time
from collections.abc import Mapping

_GREETING = "sae_gap"
# A line is shorter; whoever sends more is no process of a run.
_LONGEST = 4_096
# Seconds between two tries to reach process 0, and those in which it still tells late ones what is wrong.
_PAUSE, _LATE = 0.2, 3.0
# Of a call that nobody takes.
_CALL = 5.0


@dataclasses.dataclass(frozen=True)
class RollCall:
    """What a process was started as.

    Attributes:
      coordinator: `host:port` of process 0.
      num_processes: how many there are.
      process_id: which one this is, from 0.
      timeout: seconds in which all must be there.
    """

    coordinator: str
    num_processes: int
    process_id: int
    timeout: float

    def hold(self) -> None:
        """Returns once all processes are there.

        Raises:
          ValueError: some are not, or two do not fit each other; says so in each of those that are there. Or the port of
        process 0 is taken.
        """
        if self.process_id:
            self._answer()
        else:
            self._ask()

    @property
    def _address(self) -> tuple[str, int]:
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)

    def _ask(self) -> None:
        """As process 0 hears from all others, and tells them to go on or what is wrong."""
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(listen(self._address[1]))
            said: dict[socket.socket, bytes] = {}
            fault, told, end = "", 0, time.monotonic() + self.timeout
            while True:
                came = {one: words for one, text in said.items() if (words := _read(text)) is not None}
                if not fault:
                    fault = self._fault(came)
                    if fault:
                        end = time.monotonic() + _LATE
                there = {words["process_id"] for words in came.values()}
                if not fault and len(there) == self.num_processes - 1:
                    break
                if fault:
                    told += _tell(said, fault)
                left = end - time.monotonic()
                if left <= 0 or told >= self.num_processes - 1:
                    break
                for one in select.select([server, *said], [], [], left)[0]:
                    if one is server:
                        said[stack.enter_context(server.accept()[0])] = b""
                    elif not (more := _receive(one)) or len(said[one]) > _LONGEST:
                        # Has given up, or is a stranger.
                        del said[one]
                    else:
                        said[one] += more
            if not fault and len(there) < self.num_processes - 1:
                missing = sorted({*range(1, self.num_processes)} - there)
                fault = (
                    f"{_named(missing)} of {self.num_processes} did not come to the coordinator {self.coordinator} within "
                    f"{self.timeout:g} s; start all, each with its own process_id."
                )
            _tell(said, fault)
        if fault:
            raise ValueError(fault)

    def _fault(self, came: Mapping[socket.socket, Mapping[str, int]]) -> str:
        """What does not fit of those that came, or nothing."""
        seen: set[int] = set()
        for words in came.values():
            place, count = words["process_id"], words["num_processes"]
            if count != self.num_processes:
                return (
                    f"num_processes is {count} for process {place}, but {self.num_processes} for process 0; give all the same."
                )
            if place in seen:
                return f"two processes have process_id {place}; give each its own, from 0 to {self.num_processes - 1}."
            seen.add(place)
        return ""

    def _answer(self) -> None:
        """As another than process 0 tells it what this one is, and hears whether all go on."""
        line = f"{_GREETING} {self.process_id} {self.num_processes}\n".encode()
        end, waits = time.monotonic() + self.timeout, False
        while (left := end - time.monotonic()) > 0:
            try:
                with socket.create_connection(self._address, min(left, _CALL)) as call:
                    call.sendall(line)
                    waits, text = True, b""
                    while not text.endswith(b"\n") and len(text) <= _LONGEST and (left := end - time.monotonic()) > 0:
                        call.settimeout(left)
                        waits = bool(more := call.recv(_LONGEST))
                        if not more:
                            break
                        text += more
                head, _, fault = text.decode(errors="replace").rstrip("\n").partition(" ")
                if head == _GREETING:
                    if fault:
                        raise ValueError(fault)
                    return
                waits = waits and not text
            except UnicodeError:
                # No name of a host.
                break
            except OSError:
                pass
            time.sleep(min(_PAUSE, max(0, end - time.monotonic())))
        if waits:
            raise ValueError(
                f"not all {self.num_processes} processes joined the coordinator {self.coordinator} within {self.timeout:g} s; "
                "start all, each with its own process_id."
            )
        raise ValueError(
            f"the coordinator {self.coordinator} did not answer within {self.timeout:g} s; check its address, and that "
            "process 0 was started."
        )


def listen(port: int) -> socket.socket:
    """A port of this machine, at which nobody else listens.

    Raises:
      ValueError: somebody does, or it may not be used.
    """
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        # Python adds the address to the words of some errors.
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ValueError(f"coordinator has port {port}, which cannot be used here ({reason}); choose another.") from error


def _receive(one: socket.socket) -> bytes:
    try:
        return one.recv(_LONGEST)
    except OSError:
        return b""


def _read(text: bytes) -> dict[str, int] | None:
    """What a process has said that it is; None where it has not said all, or is a stranger."""
    words = text.decode(errors="replace").split()
    if not text.endswith(b"\n") or len(words) != 3 or words[0] != _GREETING or not all(word.isdecimal() for word in words[1:]):
        return None
    return {"process_id": int(words[1]), "num_processes": int(words[2])}


def _tell(said: dict[socket.socket, bytes], fault: str) -> int:
    """Tells those that have said what they are, once, to go on or what is wrong; how many these were."""
    came = [one for one, text in said.items() if _read(text) is not None]
    for one in came:
        with contextlib.suppress(OSError):
            one.sendall(f"{_GREETING} {fault}\n".encode())
        del said[one]
    return len(came)


def _named(processes: list[int]) -> str:
    shown = ", ".join(map(str, processes[:5])) + (f" and {len(processes) - 5} more" if len(processes) > 5 else "")
    return f"process {shown}" if len(processes) == 1 else f"processes {shown}"


__all__ = ["RollCall", "listen"]
