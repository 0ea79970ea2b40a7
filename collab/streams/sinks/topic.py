"""Answers as messages of an MQTT topic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from collab.errors import CollabError
from collab.streams.broker import BrokerClient, MakeContext, parse_topic
from collab.streams.settings import TopicSettings
from collab.streams.sinks.base import Sink

_CONFIRM_S: Final = 5.0


class TopicSink(Sink):
    """Publishes each answer at QoS 1."""

    def __init__(self, settings: TopicSettings, context: MakeContext | None = None) -> None:
        """Raises `InputError` for an address that cannot be read."""
        self._place = parse_topic(settings.url, filters=False)
        self._context = context
        self._client: BrokerClient | None = None

    def open(self) -> None:
        """Connect."""
        self.close()
        # No signs of life: between two answers nobody moves bytes, and the next one notices.
        self._client = BrokerClient(self._place, self._context, keepalive_s=0)
        try:
            self._client.connect()
        except CollabError:
            self.close()
            raise

    def write(self, answers: Sequence[bytes]) -> None:
        """Publish, and wait for the broker."""
        assert self._client is not None, "open it first"
        for answer in answers:
            self._client.publish(answer, _CONFIRM_S)

    def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
