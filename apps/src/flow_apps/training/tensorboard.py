"""Scalars for TensorBoard.

torch's SummaryWriter writes from a thread of its own, which on a full disk prints a traceback and
loses the error; a few hundred bytes per logged step need no thread.
"""

import os
import socket
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

# tensorboard and its generated classes have no types.
_event: Any = import_module("tensorboard.compat.proto.event_pb2")
_summary: Any = import_module("tensorboard.compat.proto.summary_pb2")
_record_writer: Any = import_module("tensorboard.summary.writer.record_writer")


class EventFile:
    """One event file.

    Args:
        folder: Where TensorBoard looks.
        first_step: Events of this and later steps in older files are void: a resumed run writes
            them again.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("wb")
        self._records = _record_writer.RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if first_step > 1:
            self._write(
                step=first_step, session_log=_event.SessionLog(status=_event.SessionLog.START)
            )

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers of a step; they are on disk when this returns."""
        scalars = [
            _summary.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()
        ]
        self._write(step=step, summary=_summary.Summary(value=scalars))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **content: object) -> None:
        event = _event.Event(wall_time=time.time(), **content)
        self._records.write(event.SerializeToString())
        self._file.flush()
