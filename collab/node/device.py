"""What a node runs on."""

from __future__ import annotations

import os
from dataclasses import dataclass

from collab.runtime.base import Backend, RuntimeClass
from collab.runtime.cpu import device_model, memory_bytes


@dataclass(frozen=True)
class Device:
    """Facts of the device that do not change while a node runs."""

    model: str
    memory_bytes: int
    cores: int
    runtime_class: RuntimeClass
    remarks: tuple[str, ...] = ()
    """What people should know of it, such as a delegate that is missing."""


def describe_device(backend: Backend) -> Device:
    """Look at the device; reads files, so call it off the event loop."""
    remarks = (backend.remark,) if backend.remark else ()
    return Device(device_model(), memory_bytes(), os.cpu_count() or 1, backend.runtime_class(), remarks)
