"""The process that render children are forked from, started with an environment that holds no secret.

``multiprocessing`` starts its forkserver with the environment of the worker: cloud keys, the database URL, the signing
secret. Every child inherits it, and ``/proc/PID/environ`` shows it to the end, whatever is removed from ``os.environ``
later. It also lets every child run the worker's main module, which reads the same secrets from files. This module
starts a forkserver of its own: a fresh program with a handful of variables, whose children import the image engine and
nothing of the application. The forkserver that an application uses itself is left alone.

It relies on names of :mod:`multiprocessing` that are not documented. :class:`_Server` and :class:`_Popen` are the only
places that use them, and ``tests/integration/media/test_render_server.py`` starts real children through them.
"""

from __future__ import annotations

import functools
import inspect
import io
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing import connection, context, forkserver, popen_forkserver, reduction, resource_tracker, util
from typing import Any

#: Variables that a child keeps: where programs and libraries are, language, time zone, temporary files, allocators.
KEPT_VARIABLES = frozenset(
    {
        "PATH",
        "HOME",  # packages installed for one user
        "TMPDIR",
        "TZ",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "MAGIC",  # the database of libmagic
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "DYLD_LIBRARY_PATH",
        "DYLD_FALLBACK_LIBRARY_PATH",
        "MALLOC_ARENA_MAX",
        "MALLOC_CONF",
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONPLATLIBDIR",
        "PYTHONNOUSERSITE",
        "PYTHONSAFEPATH",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONPYCACHEPREFIX",
        "PYTHONUTF8",
        "PYTHONHASHSEED",
    }
)
#: Length of the key of Python 3.14's handshake with a forkserver, in bytes (``forkserver._AUTHKEY_LEN``).
_HANDSHAKE_BYTES = 32


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return those of ``variables`` that a child keeps."""
    return {name: value for name, value in variables.items() if name in KEPT_VARIABLES}


class CleanContext(context.ForkServerContext):
    """A ``multiprocessing`` context whose processes have a clean environment and no main module.

    All contexts with the same modules share one server. It ends with this process.

    Args:
        preload: modules that the server imports before it forks.
    """

    def __init__(self, *preload: str) -> None:
        self._preload = preload

    def Process(self, *arguments: Any, **options: Any) -> CleanProcess:  # type: ignore[override]  # a class there
        """Return a process like those of ``multiprocessing``, not yet started."""
        child = CleanProcess(*arguments, **options)
        child.preload = self._preload
        return child


class CleanProcess(context.ForkServerProcess):
    """A process whose parent is a server of ours; it is pickled for the child, so it names its server by modules."""

    preload: tuple[str, ...] = ()

    @staticmethod
    def _Popen(process_obj: Any) -> _Popen:
        return _Popen(process_obj, _server(process_obj.preload))


@functools.cache
def _server(preload: tuple[str, ...]) -> _Server:
    return _Server(preload)


class _Server(forkserver.ForkServer):
    """A forkserver that is started as a fresh program: its own module search path, environment and nothing else."""

    # Set by ForkServer.__init__.
    _lock: Any
    _forkserver_address: Any
    _forkserver_alive_fd: Any
    _forkserver_pid: Any

    def __init__(self, preload: tuple[str, ...]) -> None:
        super().__init__()
        self._preload = list(preload)

    def ensure_running(self) -> None:
        with self._lock:
            resource_tracker.ensure_running()
            if self._forkserver_pid is not None:
                if not os.waitpid(self._forkserver_pid, os.WNOHANG)[0]:
                    return
                os.close(self._forkserver_alive_fd)
                self._forkserver_address = self._forkserver_alive_fd = self._forkserver_pid = None
            self._start()

    def _start(self) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            address = connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
            listener.bind(address)
            os.chmod(address, 0o600)
            listener.listen()
            # Every child holds the writing end; when all have ended, the server ends too.
            alive_read, alive_write = os.pipe()
            try:
                self._forkserver_pid = self._execute(listener.fileno(), alive_read)
            except BaseException:
                os.close(alive_write)
                raise
            finally:
                os.close(alive_read)
        self._forkserver_address, self._forkserver_alive_fd = address, alive_write

    def _execute(self, listener: int, alive: int) -> int:
        inherited, options = [listener, alive], {}
        with_handshake = "authkey_r" in inspect.signature(forkserver.main).parameters  # since Python 3.14
        if with_handshake:
            key_read, key_write = os.pipe()
            inherited.append(key_read)
            options["authkey_r"] = key_read
        try:
            code = (
                f"import sys; sys.path[:] = {_search_path()!r}; from multiprocessing.forkserver import main; "
                f"main({listener}, {alive}, {self._preload!r}, **{options!r})"
            )
            server = subprocess.Popen(  # noqa: S603 - this interpreter
                [sys.executable, *util._args_from_interpreter_flags(), "-c", code],  # type: ignore[attr-defined]
                env=environment(os.environ),
                pass_fds=inherited,
            )
            # Reaped by ensure_running(); subprocess must not do it, nor warn about a process that goes on.
            server.returncode = 0
            if with_handshake:
                key = secrets.token_bytes(_HANDSHAKE_BYTES)
                os.write(key_write, key)
                self._forkserver_authkey = key
        finally:
            if with_handshake:
                os.close(key_read)
                os.close(key_write)
        return server.pid


class _Popen(popen_forkserver.Popen):
    """A process forked from a server of ours."""

    finalizer: Any
    sentinel: Any
    pid: int
    _fds: list[int]

    def __init__(self, process_obj: Any, server: _Server) -> None:
        self._server = server
        super().__init__(process_obj)

    def _launch(self, process_obj: Any) -> None:
        # What ``spawn.get_preparation_data`` returns, without the main module, the arguments and the authentication
        # key of the worker.
        preparation = {"name": process_obj._name, "sys_path": _search_path(), "dir": os.getcwd()}
        order = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(preparation, order)
            reduction.dump(process_obj, order)
        finally:
            context.set_spawning_popen(None)
        self.sentinel, write = self._server.connect_to_new_process(self._fds)
        # A copy of the writing end stays open: the child detects by it that this process has ended.
        self.finalizer = util.Finalize(self, _close, (os.dup(write), self.sentinel))
        with open(write, "wb", closefd=True) as pipe:
            pipe.write(order.getbuffer())
        self.pid = forkserver.read_signed(self.sentinel)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _search_path() -> list[str]:
    return [part or os.getcwd() for part in sys.path]
