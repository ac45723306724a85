"""One process at a time in a run folder."""

import fcntl
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from flow_apps.errors import RunFolderError

LOCK_NAME = "run.lock"


@contextmanager
def locked(folder: Path) -> Generator[None, None, None]:
    """Hold the lock of a run folder.

    The system drops the lock of a process that dies, however it dies; what is left of it is a file
    that means nothing.

    Raises:
        RunFolderError: If a process that lives holds it; it is named.
    """
    path = folder / LOCK_NAME
    descriptor = _acquired(path)
    try:
        _sign(descriptor, path)
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _sign(descriptor: int, path: Path) -> None:
    """Say who holds the lock."""
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"host {socket.gethostname()}, pid {os.getpid()}".encode())
    except OSError as error:
        raise RunFolderError(
            f"cannot write {path}: {error.strerror}; make room, or give another --out"
        ) from error


def _acquired(path: Path) -> int:
    """A descriptor of the file at this path that holds its lock."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunFolderError(f"cannot write {path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace")
            os.close(descriptor)
            raise RunFolderError(
                f"{path.parent} is in use by another process ({holder or 'unknown'}); wait for it, "
                "stop it, or give another folder with --out"
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise RunFolderError(f"cannot lock {path}: {error.strerror}") from error
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # its holder had removed it when it was locked here


def _is_at(descriptor: int, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
