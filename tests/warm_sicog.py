"""`sicog` and `python` for tests, whose processes start warm: forked from a server that has imported the libraries.

Importing PyTorch, Transformers and its Trainer takes some five seconds of a core, and the documented commands start a
hundred processes. Each command still runs in a process of its own, with its own folder, environment and streams.
What the command itself starts is warm too: steps side by side, torchrun and its ranks, jobs of the stand-in for SLURM.
`tests/test_cli.py`, the kill tests and `tests/test_wheel.py` start the real command.

This file is both sides: the server (the module's main), and CLIENT, the script that stands for a command.
"""

from __future__ import annotations

import array
import atexit
import gc
import importlib
import json
import multiprocessing.spawn  # takes sys.executable as it is imported
import multiprocessing.util
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import redirect_stdout, suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TypedDict

# Python without site-packages, which starts in 20 ms. It sends its streams, and waits for the exit code.
CLIENT = """#!{python} -IS
import array, json, os, resource, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
asked = dict(
    program={program!r}, arguments=sys.argv[1:], folder=os.getcwd(), environment=dict(os.environ), file_size_limit=limit
)
text = json.dumps(asked).encode()
streams = array.array("i", [0, 1, 2]).tobytes()
server.sendmsg([len(text).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
server.sendall(text)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, _: server.send(bytes([number])))
code = server.recv(1)
if not code:
    sys.exit("the warm server of the tests is gone")
sys.exit(code[0])
"""
_IMPORTS = (
    "sicog.cli",
    "sicog.training.trainer",
    "sicog.training.train",
    "sicog.generation.sample",
    "sicog.curation.score.score",
    "sicog.report.write",
    "deepspeed",
    "torch.utils.tensorboard",
)


_SPAWN = multiprocessing.util.spawnv_passfds
_PROGRAMS = {  # by their console scripts' targets
    "sicog": ("sicog.cli", "main"),
    "torchrun": ("torch.distributed.run", "main"),
    "launch_pickled_pipeline": ("datatrove.tools.launch_pickled_pipeline", "main"),
}


class Asked(TypedDict):
    """What the client sends: the command, and what a process has from its parent."""

    program: str
    arguments: list[str]
    folder: str
    environment: dict[str, str]
    file_size_limit: tuple[int, int]


def warm_sicog() -> Path:
    """Return a `sicog` that starts warm. Its folder may be put on PATH."""
    return _commands() / "sicog"


def warm_python() -> Path:
    """Return a `python` that starts warm. It takes `-m MODULE`, `-c CODE` or a file, and arguments."""
    return _commands() / "python"


@cache
def _commands() -> Path:
    """Start the server. Return the folder of its commands."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    address = folder / "socket"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(address)]
    server = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(server.kill)
    assert server.stdout and server.stdout.readline() == b"ready\n", "the warm server did not start"
    (commands := folder / "bin").mkdir()
    for program in ("python", *_PROGRAMS):
        path = commands / program
        path.write_text(CLIENT.format(python=sys.executable, address=str(address), program=program))
        path.chmod(0o755)
    return commands


def server(address: str) -> None:
    """Fork a process for every command, until the process that started this one ends."""
    sys.path.remove(str(Path(__file__).parent))
    with redirect_stdout(sys.stderr):  # DeepSpeed prints
        for name in _IMPORTS:
            __import__(name)
    gc.freeze()  # else every collection looks at a million objects of the libraries
    threads = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    assert set(threads[1:]) <= {"jemalloc_bg_thd"}, f"{threads}: a fork has only one of them"  # pyarrow's starts again
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors are not waited for
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _supervise(client)
        client.close()


def _supervise(client: socket.socket) -> None:
    """Start the command in a session of its own. Forward signals to it, and its exit code to the client."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asked, streams = _receive(client)
    command = os.fork()
    if command == 0:
        client.close()
        _run(asked, streams)
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(command)
    while True:
        ready, _, _ = select.select([client, ended], [], [])
        if ended in ready:
            break
        with suppress(ProcessLookupError):  # it has no session of its own yet
            number = client.recv(1)
            os.kill(command, number[0]) if number else os.killpg(command, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
    try:
        client.send(bytes([code if code >= 0 else 128 - code]))
    finally:
        os._exit(0)


def _receive(client: socket.socket) -> tuple[Asked, list[int]]:
    streams = array.array("i")
    size, ancillary, _, _ = client.recvmsg(8, socket.CMSG_SPACE(3 * streams.itemsize))
    for _, _, data in ancillary:
        streams.frombytes(data)
    n_bytes, text = int.from_bytes(size, "big"), b""
    while len(text) < n_bytes:
        text += client.recv(n_bytes - len(text))
    return json.loads(text), list(streams)


def _run(asked: Asked, streams: list[int]) -> None:
    """Become the command, and end this process."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, 256)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", 1)  # noqa: SIM115
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update({**asked["environment"], "OMP_WAIT_POLICY": "PASSIVE"})
    resource.setrlimit(resource.RLIMIT_FSIZE, asked["file_size_limit"])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in jobs that a shell starts in the background
    code = 1
    try:
        _start(asked["program"], asked["arguments"])
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _start(program: str, arguments: list[str]) -> None:
    commands = Path(sys.argv[1]).parent / "bin"  # beside the server's socket
    sys.executable = str(commands / "python")
    multiprocessing.util.spawnv_passfds = _fork_instead
    if program in _PROGRAMS:
        module, function = _PROGRAMS[program]
        sys.argv = [program, *arguments]
        getattr(importlib.import_module(module), function)()
        return
    if arguments[0] == "-u":
        sys.stdout.reconfigure(line_buffering=True)
        del arguments[0]
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(arguments[1], {"__name__": "__main__"})
    elif arguments[0] == "-m":
        sys.path.insert(0, str(Path.cwd()))
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(arguments[0]).absolute().parent))
        sys.argv = list(arguments)
        runpy.run_path(arguments[0], run_name="__main__")


def _fork_instead(path: str, arguments: list[str], file_descriptors: Iterable[int]) -> int:
    """Stand for `multiprocessing.util.spawnv_passfds`, which starts a new Python for the code behind `-c`.

    A fork server may be a fork of this process. A spawned worker may not: it is to register again what a script adds.
    """
    if "forkserver" not in arguments[-1]:
        return _SPAWN(path, arguments, file_descriptors)
    if process := os.fork():
        return process
    kept = sorted({0, 1, 2, *map(int, file_descriptors)})
    for before, after in pairwise([*kept, 4096]):
        os.closerange(before + 1, after)
    sys.argv = ["-c"]
    code = 1
    try:
        exec(arguments[-1], {"__name__": "__main__"})
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    server(sys.argv[1])
