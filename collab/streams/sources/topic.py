"""Messages of an MQTT topic as frames."""

from __future__ import annotations

import time
from collections import deque
from threading import Event
from typing import Final

from collab.errors import LimitExceeded
from collab.streams.broker import BrokerClient, MakeContext, parse_topic
from collab.streams.frames import MAX_FRAME_BYTES, Frame, Payload
from collab.streams.settings import TopicSettings
from collab.streams.sources.base import Source

_STEP_S: Final = 0.25


class TopicSource(Source):
    """Each message is a frame; what comes while it is lost is gone, retained messages come again."""

    lasts = True

    def __init__(self, settings: TopicSettings, context: MakeContext | None = None) -> None:
        """Raises `InputError` for an address that cannot be read."""
        self._place = parse_topic(settings.url, filters=True)
        self._settings = settings
        self._context = context
        self._stopped = Event()
        self._client: BrokerClient | None = None
        self._got: deque[Frame] = deque()

    def open(self) -> None:
        """Connect and subscribe."""
        self._client = BrokerClient(self._place, self._context, self._heard)
        try:
            self._client.connect()
            self._client.subscribe(self._settings.qos)
        except BaseException:
            self.close()
            raise

    def _heard(self, topic: str, payload: bytes) -> None:
        data = Payload(payload, self._settings.payload)
        self._got.append(Frame(topic, int(time.time() * 1000), data))

    def read(self) -> Frame | None:
        """The next message."""
        assert self._client is not None, "open it first"
        while not self._stopped.is_set():
            if self._got:
                frame = self._got.popleft()
                assert isinstance(frame.data, Payload)
                if len(frame.data.data) > MAX_FRAME_BYTES:
                    raise LimitExceeded(f"{frame.name}: a message has over {MAX_FRAME_BYTES} bytes")
                return frame
            self._client.step(_STEP_S)
        return None

    def stop(self) -> None:
        """End a wait."""
        self._stopped.set()

    def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
