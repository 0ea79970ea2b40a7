"""Sources and sinks by name: on the command line, in settings, and those of other packages."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from collab import streaming
from collab.errors import ConfigError, UsageError
from collab.streams.sinks.lines import LinesSink, OutputSink
from collab.streams.sinks.memory import MemorySink
from collab.streams.sinks.topic import TopicSink
from collab.streams.sinks.webhook import WebhookSink
from collab.streams.sources.folder import FolderSource
from collab.streams.sources.memory import MemorySource
from collab.streams.sources.topic import TopicSource
from collab.streams.sources.video import VideoSource


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("folder:pictures", FolderSource),
        ("file:clip.mp4", VideoSource),
        ("v4l2:/dev/video0", VideoSource),
        ("rtsp://10.0.0.9:554/front?channel=1", VideoSource),
        ("mqtt://broker/frames/%23", TopicSource),
        ("mqtts://user:pass@broker:8883/frames", TopicSource),
    ],
)
def test_sources_are_named_on_the_command_line(text: str, kind: type):
    assert isinstance(streaming.named_source(text), kind)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("jsonl:answers.jsonl", LinesSink),
        ("jsonl:-", OutputSink),
        ("mqtt://broker/answers", TopicSink),
        ("https://host/hook", WebhookSink),
        ("http://127.0.0.1:8000/", WebhookSink),
    ],
)
def test_sinks_are_named_on_the_command_line(text: str, kind: type):
    assert isinstance(streaming.named_sink(text), kind)


@pytest.mark.parametrize("text", ["", "folder:", "pictures", "ftp://host/x", "rtsp:", "mqtt:broker/topic"])
def test_what_names_no_source_is_refused(text: str):
    with pytest.raises(UsageError, match="give folder:DIR"):
        streaming.named_source(text)


@pytest.mark.parametrize("text", ["", "jsonl:", "answers.jsonl", "ftp://u:secret@host/x", "https:host"])
def test_what_names_no_sink_is_refused(text: str):
    with pytest.raises(UsageError, match="give jsonl:PATH") as caught:
        streaming.named_sink(text)
    assert "secret" not in str(caught.value)


def declared(what: str, **tables: dict[str, object]) -> dict:
    return streaming._declared(what, tables, None)


def test_settings_become_sources_and_sinks(tmp_path: Path):
    found = declared("sources", door={"kind": "folder", "path": str(tmp_path), "watch": True})
    kind, make, lacking = found["door"]
    assert (kind, lacking) == ("folder", "")
    assert isinstance(make(), FolderSource)
    assert make() is not make()


@pytest.mark.parametrize(
    ("what", "table", "text"),
    [
        ("sources", {"path": "x"}, "settings: sources.it.kind: is missing; give one of file, folder"),
        ("sources", {"kind": "webcam"}, "settings: sources.it: kind 'webcam' is not known; give one of file"),
        ("sources", {"kind": "folder"}, "settings: sources.it: Object missing required field `path`"),
        (
            "sources",
            {"kind": "folder", "path": "x", "wtach": 1},
            "sources.it: Object contains unknown field `wtach`",
        ),
        ("sources", {"kind": "v4l2", "device": "video0"}, "sources.it: video0: give the device's whole path"),
        (
            "sources",
            {"kind": "rtsp", "url": "rtsp://u:secret@:1/"},
            "sources.it: 'rtsp://:1/': write it as rtsp://",
        ),
        (
            "sinks",
            {"kind": "webhook", "url": "file:///etc/passwd"},
            "sinks.it: 'file:///etc/passwd': write it as",
        ),
        (
            "sinks",
            {"kind": "mqtt", "url": "mqtt://host/a/+"},
            "sinks.it: 'mqtt://host/a/+': answers go to one topic",
        ),
        ("sinks", {"kind": "jsonl", "path": 3}, "settings: sinks.it: Expected `Path`, got 3"),
    ],
)
def test_settings_that_cannot_be_used_are_named(what: str, table: dict[str, object], text: str):
    with pytest.raises(ConfigError) as caught:
        declared(what, it=table)
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_kind_whose_package_is_missing_is_declared_with_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streaming, "find_spec", lambda name: None)
    kind, _, lacking = declared("sources", door={"kind": "v4l2", "device": "/dev/video0"})["door"]
    assert (kind, lacking) == ("v4l2", "av is missing: pip install 'collab[video]'")
    with pytest.raises(ConfigError, match=r"--source: av is missing: pip install 'collab\[video\]'"):
        streaming.named_source("v4l2:/dev/video0")


def test_other_packages_bring_sources_and_sinks(monkeypatch: pytest.MonkeyPatch):
    points = {
        "collab.sources": [EntryPoint("stock", f"{__name__}:stock", "collab.sources")],
        "collab.sinks": [EntryPoint("jsonl", f"{__name__}:stock", "collab.sinks")],
    }
    monkeypatch.setattr(streaming, "entry_points", lambda group: points[group])
    monkeypatch.setattr(EntryPoint, "load", lambda self: stock)
    _, make, _ = declared("sources", it={"kind": "stock", "market": "x"})["it"]
    assert isinstance(make(), MemorySource)
    assert isinstance(streaming.make("sinks", "jsonl", {"path": "x"}, "--sink"), LinesSink), "ours come first"


def stock(table: dict[str, object]) -> MemorySource | MemorySink:
    assert table == {"market": "x"}
    return MemorySource([])
