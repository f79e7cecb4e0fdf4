"""Starting, asking and stopping the programs of a benchmark, and reading what they and others used of the machine."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
READY_S = 90
STOP_S = 30


class BenchFailed(Exception):
    """Something could not be built, started or measured; the message says what and how to go on."""


class Starter:
    """Starts programs that are stopped in reverse when the stack closes; their output goes to files in a folder."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder

    def __call__(self, name: str, command: list[str], port: int, ready_path: str) -> subprocess.Popen[bytes]:
        """Start a program and return once it answers on its port.

        Raises:
            BenchFailed: it does not.
        """
        log = self._folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self._stack.callback(stop, process)
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException, BenchFailed):
                get(port, ready_path)
                return process
            time.sleep(0.02)
        state = "did not answer" if process.poll() is None else f"ended with {process.returncode}"
        raise BenchFailed(f"{name} {state} within {READY_S} s; it said: {log.read_text(errors='replace')[-2000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a program that was started here, gently first."""
    if process.poll() is not None:
        return
    process.terminate()
    process.send_signal(signal.SIGCONT)  # it may have been frozen
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def output_of(command: list[str]) -> str:
    """Run a program to its end and return what it printed.

    Raises:
        BenchFailed: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise BenchFailed(f"{' '.join(command)} ended with {done.returncode}: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def get(port: int, path: str) -> bytes:
    """Return the body of a page on loopback.

    Raises:
        BenchFailed: its status is not 200.
        OSError: nobody answers.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    if answer.status != http.HTTPStatus.OK:
        raise BenchFailed(f"GET {path} on port {port} gave {answer.status}")
    return body


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def pins() -> tuple[list[str], list[str]]:
    """Return the command prefixes that pin to the gateway's core and to the load's; empty where there is one core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2 or shutil.which("taskset") is None:
        return [], []
    return ["taskset", "-c", str(cores[0])], ["taskset", "-c", str(cores[1])]


def tree(root: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []


def cpu_s(pids: list[int]) -> float:
    """Return the CPU seconds, user and system, that processes have used since they started."""
    return sum(int(fields[11]) + int(fields[12]) for pid in pids if (fields := _stat(pid))) / TICKS_PER_S


def cores() -> list[int]:
    """Return the cores this may run on."""
    return sorted(os.sched_getaffinity(0))


def core_busy_s(which: list[int]) -> float:
    """Return how long these cores have been busy since the machine started."""
    names = {f"cpu{core}" for core in which}
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    ticks = [[int(part) for part in fields[1:9]] for fields in lines if fields[0] in names]
    return sum(sum(core) - core[3] - core[4] for core in ticks) / TICKS_PER_S


def pss_mib(pids: list[int]) -> float:
    """Return what processes hold of the memory in MiB, shared pages counted by their share."""
    kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 1024
