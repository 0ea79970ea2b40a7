"""What README and docs name exists: commands, options, settings, error codes, files and headings."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer.main

from collab import errors
from collab.cli import main, settings
from collab.cli.pipelines import MAX_FILE_BYTES
from collab.cli.raw import MAX_RAW_BYTES
from collab.client import metrics as requesters
from collab.client.local import MAX_WAITING
from collab.client.policy import RetryPolicy
from collab.codec.envelope import EnvelopeLimits
from collab.codec.pb import grpc_service_pb2
from collab.codec.wire import MAX_HEADER_BYTES
from collab.coordinator.federated_secure import GRACE_S, MAX_PHASE_S
from collab.coordinator.version_folder import KEPT_VERSIONS
from collab.core import pipeline, streams, transforms, validate
from collab.core import preprocessing as steps
from collab.dashboard import access, folders, looks, versions
from collab.dashboard import state as board
from collab.dashboard import traffic as page_traffic
from collab.emulation import emulator, network, plans, scenario, sweeps, traces
from collab.emulation.forward import MAX_HELD
from collab.emulation.nat import MAX_FLOWS
from collab.federated import task
from collab.federated.aggregate.combine import BLOCK_BYTES
from collab.federated.aggregate.fixed import MAX_VALUE, MAX_WEIGHT
from collab.federated.aggregate.partial import MAX_TERMS
from collab.federated.children import MAX_CHILDREN, MAX_REASON
from collab.federated.compression.message import DEFAULT_MOST_BYTES, MAX_TENSORS
from collab.federated.compression.updates import MAX_METRICS, MAX_NAME
from collab.federated.data import archives, pictures, sources, tables
from collab.federated.evaluating import MAX_METRICS as MAX_EVALUATED
from collab.federated.ledger import MAX_LEFT_OUT
from collab.federated.orders import MAX_HELD_MODELS, MAX_ORDER_S
from collab.federated.privacy import accounting, messages
from collab.federated.privacy.masking import MAX_INVITATION_BYTES
from collab.federated.trainers import local
from collab.link.link import LinkConfig
from collab.link.links import MAX_LINKS
from collab.node import feedback, observing
from collab.node.condition_config import ConditionConfig
from collab.node.config import NodeConfig, RuntimeConfig
from collab.node.limits import SessionLimits
from collab.node.reporting import MAX_TAKEN, MAX_UNWRITTEN
from collab.node.serving import ServeConfig
from collab.node.tally import MAX_PEERS, MAX_STAGES
from collab.node.training import MAX_WAIT_S
from collab.node.training_config import TrainingConfig
from collab.node.training_files import MAX_RUNS
from collab.node.training_masked import MAX_MESSAGE_BYTES
from collab.node.training_offer import MAX_SETTINGS_BYTES
from collab.node.training_verbs import MAX_PART_BYTES, MAX_PARTS
from collab.runtime import surroundings
from collab.runtime.preprocessing import images
from collab.runtime.preprocessing import tables as raw_tables
from collab.security.api_keys import MAX_KEYS
from collab.serving.batch import MAX_BATCH
from collab.serving.files import MAX_AT_ONCE
from collab.serving.inference import MAX_ID
from collab.serving.limits import ServeLimits
from collab.serving.offers import MAX_WAITING as MAX_OFFER_WAITING
from collab.serving.openapi import describe
from collab.serving.rate import MAX_CLIENTS as MAX_RATED
from collab.serving.rest_body import MAX_HEAD
from collab.serving.status import TABLE
from collab.serving.wishes import MAX_DEADLINE_S, MAX_PARAMETERS
from collab.streaming import SINKS, SOURCES
from collab.streams.frames import MAX_FRAME_BYTES
from collab.streams.reading import MAX_EXAMPLES
from collab.streams.settings import (
    MAX_DECLARED,
    MAX_HEADERS,
    CameraSettings,
    FolderSettings,
    LinesSettings,
    RtspSettings,
    TopicSettings,
    VideoSettings,
    WebhookSettings,
)
from collab.streams.sinks.base import Sink
from collab.streams.sinks.webhook import MAX_REPLY
from collab.streams.sources.folder import MAX_FILES
from collab.streams.sources.video import MAX_PIXELS
from collab.telemetry import export as export_spans
from collab.telemetry import scrape
from collab.telemetry.catalogue import CATALOGUE
from collab.toolchain.trainable import export
from collab.updates.bundle import manifest as bundle
from collab.updates.policies import clauses, condition, reference, state
from collab.updates.policies.parse import MAX_POLICY_BYTES
from collab.updates.settings import ReleaseSettings
from collab.updates.store import state as store

ROOT = Path(__file__).parents[3]
DOCS = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
PAGES = [*DOCS, ROOT / "CONTRIBUTING.md"]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
OTHERS = {"--heavy", "--quick", "--full", "--only", "--again", "--minutes", "--part", "--environment"}
OTHERS |= {"--pip-args", "--no-index", "--find-links", "--force", "--cacert"}
"""Options of pytest, of the benchmarks, of the experiments, of `simulations.parity`, pipx, pip and curl."""


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command by the words that call it, groups included."""
    yield words, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*words, name))


@pytest.fixture(scope="module")
def known() -> dict[tuple[str, ...], set[str]]:
    """The options of every command."""
    main._register()
    found = dict(commands(typer.main.get_command(main.app)))
    return {
        words: {
            option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        | {"-h", "--help"}
        for words, command in found.items()
    }


def code(text: str) -> Iterator[str]:
    """Lines of fenced blocks that are not another language, and code spans."""
    for language, body in FENCE.findall(text):
        if language in ("", "sh", "console", "toml"):
            yield from body.splitlines()
    yield from SPAN.findall(FENCE.sub("", text))


def calls(text: str) -> Iterator[list[str]]:
    """The words behind ``collab`` wherever it is called."""
    for line in code(text):
        found = re.match(r"(?:\$ |# \S+: |\.venv/bin/)?collab ((?:[a-z]|--?[a-z]).*)", line.strip())
        if found:
            yield found[1].split()


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_and_its_options_exist(page, known):
    for words in calls(page.read_text("utf-8")):
        command = max((tuple(words[:n]) for n in range(4) if tuple(words[:n]) in known), key=len)
        assert command or words[0].startswith("-"), f"collab {words[0]}: no such command"
        options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert options <= known[command], f"collab {' '.join(command)}: {options - known[command]}"


def test_every_row_of_the_command_table_names_options_of_its_command(known):
    text = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| `collab ((?:[a-z]+[ -])*[a-z]+)(?: [A-Z]+)?` \|(.*)$", text, re.MULTILINE)
    described = set()
    for name, rest in rows:
        command = tuple(name.split())
        described.add(command)
        assert set(OPTION.findall(rest)) <= known[command], name
    assert described == {words for words in known if words and not any(w[:-1] == words for w in known)}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_option_exists_somewhere(page, known):
    named = {option for line in code(page.read_text("utf-8")) for option in OPTION.findall(line)}
    assert named <= OTHERS.union(*known.values())


def test_the_sample_settings_work_and_are_complete(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("COLLAB_")]:
        monkeypatch.delenv(name)
    text = (ROOT / "README.md").read_text("utf-8")
    (sample,) = [body for language, body in FENCE.findall(text) if language == "toml"]
    file = tmp_path / "collab.toml"
    file.write_text(sample, "utf-8")
    assert settings.gather(NodeConfig, {}, file, "node").name == "pi-1"
    assert settings.peers(None, file) == ["10.0.0.7:7070", "10.0.0.8:7070"]
    named = set(re.findall(r"^(\w+) =", sample, re.MULTILINE))
    tables = (RuntimeConfig, TrainingConfig, ConditionConfig, ServeConfig, ReleaseSettings)
    own = {field.name for field in msgspec.structs.fields(NodeConfig)}
    own -= {"runtime", "training", "condition", "serve_releases", "releases", "sources", "sinks"}
    assert named == {
        *("peers", "device", "path"),
        *own,
        *(field.name for kind in tables for field in msgspec.structs.fields(kind)),
    }


def test_the_tables_of_sources_and_sinks_are_those_of_the_code():
    text = (ROOT / "docs/sources.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| ([^|]+) \|$", text, re.MULTILINE)
    kinds = {
        "folder": FolderSettings,
        "file": VideoSettings,
        "v4l2": CameraSettings,
        "rtsp": RtspSettings,
        "mqtt": TopicSettings,
        "jsonl": LinesSettings,
        "webhook": WebhookSettings,
    }
    said = {kind: set(re.findall(r"`(\w+)`", fields)) for kind, _, fields in rows if kind in kinds}
    assert said == {kind: set(settings.__struct_fields__) for kind, settings in kinds.items()}
    assert {*SOURCES, *SINKS} == set(kinds)


def test_the_bounds_of_streams_are_those_of_the_code():
    text = (ROOT / "docs/architecture.md").read_text("utf-8").partition("## Memory and bounds")[2]
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|", text, re.MULTILINE))
    assert {
        "streams of a plan, sinks of one; frames that wait, requests of one under way; its labels": ""
        f"{streams.MAX_STREAMS}, {streams.MAX_SINKS}; {streams.MAX_WAITING:,} each; "
        f"{streams.MAX_LABELS:,}",
        "sources, and sinks, that a node declares; headers of a webhook": f"{MAX_DECLARED}; {MAX_HEADERS}",
        "a frame as it comes; pixels of one; examples in one": ""
        f"{MAX_FRAME_BYTES >> 20} MiB; {MAX_PIXELS:,}; {MAX_EXAMPLES:,}",
        "files of a watched folder": f"{MAX_FILES:,}",
        "answers that wait for a sink: `jsonl` and `mqtt`, a webhook; tries; a reply's bytes": ""
        f"{Sink.waiting:,}, `waiting`, {WebhookSettings(url='').waiting}; {Sink.tries}; "
        f"{MAX_REPLY >> 10} KiB",
    }.items() <= rows.items()


def test_the_table_of_metrics_is_that_of_the_code():
    text = (ROOT / "docs/monitoring.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+_\w+)` \| (\w+) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    said = [(name, kind, tuple(re.findall(r"`(\w+)`", labels)), what) for name, kind, labels, what in rows]
    assert said == [(m.name, m.kind.value, m.labels, m.text) for m in CATALOGUE]


def test_the_table_of_errors_is_complete():
    text = (ROOT / "docs/protocol.md").read_text("utf-8")
    rows = re.findall(r"^\| `([a-z_]+)` \| (\d) \|", text.partition("## Errors")[2], re.MULTILINE)
    assert {code: int(status) for code, status in rows} == {c: e.exit_code for c, e in errors.BY_CODE.items()}


def test_the_bounds_in_the_tables_are_those_of_the_code():
    text = (ROOT / "docs/architecture.md").read_text("utf-8").partition("## Memory and bounds")[2]
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|", text, re.MULTILINE))
    door = ServeLimits()
    link, session, envelope, retry = LinkConfig(), SessionLimits(), EnvelopeLimits(), RetryPolicy()
    mux, node = link.mux, NodeConfig(name="n")
    whole, partial, window = (
        tuple(size >> 20 for size in sizes)
        for sizes in (mux.message_bytes, mux.partial_bytes, mux.window_bytes)
    )
    expected = {
        "stages, edges": f"{validate.MAX_STAGES}, {validate.MAX_EDGES:,}",
        "alternatives": f"{validate.MAX_ALTERNATIVES}, ",
        "reports that wait on a node": f"`max_reports`, {node.max_reports:,}, and `report_bytes`, "
        f"{node.report_bytes >> 20} MiB",
        "a scrape of metrics: headers, at a time, time; stages and peers that a node counts apart": ""
        f"{scrape.MAX_HEAD_BYTES >> 10} KiB, {scrape.MAX_CONNECTIONS}, {scrape.SCRAPE_S:g} s; "
        f"{MAX_STAGES:,} and {MAX_PEERS}",
        "spans that wait to be sent; in one batch; its time": f"{export_spans.MAX_QUEUED:,}; "
        f"{export_spans.MAX_BATCH}; {export_spans.TIMEOUT_S:g} s",
        "answers that wait to be written to that queue; reports in a reply": f"{MAX_UNWRITTEN:,}; "
        f"{MAX_TAKEN:,}",
        "requests that wait for the whole model at a requester": f"{MAX_WAITING}",
        "window of a quarantine": f"1 to {validate.MAX_WINDOW:,} requests, 50 by default",
        "message: control, tensors, blobs": "{} MiB, {} MiB, {} MiB".format(*whole),
        "unfinished messages of a peer: control, tensors, blobs": "{} MiB, {} MiB, {} MiB".format(*partial)
        + f", {mux.partial_messages:,} messages",
        "window: control, tensors, blobs": f"none, {window[1]} MiB, {window[2]} MiB",
        "links from which on no more are accepted": f"{MAX_LINKS:,}",
        "calls of a peer served at a time": f"{link.calls_at_once}; ",
        "a call": f"{link.call_timeout_s:g} s",
        "ping, silence after which a peer is dead": f"{link.ping_interval_s:g} s, {link.silence_limit_s:g} s",
        "header": f"{MAX_HEADER_BYTES >> 10} KiB",
        "tensors, nodes of a route, hops": f"{envelope.tensors:,}, {envelope.route}, {envelope.hops}",
        "attempts in flight on the node, and of one requester": f"{session.attempts:,}, "
        f"{session.attempts_per_requester:,}",
        "finished attempts that are remembered": f"{session.tombstones:,}, ",
        "plans: names, and loaded epochs": f"{session.plans}",
        "routes of a plan that are kept worked out": f"{session.routes}",
        "lease of credits": f"{session.lease_us // 1_000_000} s",
        "reservation": f"{node.reservation_s:g} s by default",
        "epochs of one plan in memory": f"{node.max_epochs} by default",
        "requests of one process that are kept as they went, those of a plan that are shown; seconds that "
        "quantiles are of": f"{requesters.KEPT}, {board.RECENT}; {page_traffic.WINDOW_S:.0f}",
        "the page: nodes, values, series, points of one, lines of the log": f"{board.MAX_NODES}, "
        f"{versions.MAX_KEYS:,}, {versions.MAX_SERIES}, {versions.MAX_POINTS}, {versions.MAX_LOG}",
        "who looks at it: sessions, streams, a session's life, wrong keys of an address, a body": (
            f"{access.MAX_SESSIONS}, {access.MAX_STREAMS}, {access.SESSION_S // 3600:.0f} h, "
            f"{access.MAX_TRIES} a minute, {access.MAX_BODY >> 10} KiB in {access.BODY_S:.0f} s"
        ),
        "what it takes of a node: plans, links, characters of a text; folders of runs or rollouts, rounds "
        "of a run": f"{looks.MAX_PLANS}, {looks.MAX_LINKS}, {looks.MAX_TEXT}; "
        f"{folders.MAX_FOLDERS}, {folders.MAX_ROUNDS}",
        "a trace of a link's rate": f"{traces.MAX_TRACE_BYTES >> 20} MiB, {traces.MAX_TRACE_LINES:,} lines",
        "a scenario: its file, requests, points of a sweep, hosts that the planner chooses from": "16 MiB, "
        f"{scenario.MAX_REQUESTS:,}, {sweeps.MAX_POINTS:,}, {plans.PLANNED_HOSTS}",
        "store": f"{node.store_bytes >> 30} GiB",
        "an emulated network: hosts, links": f"{emulator.MAX_HOSTS}, {emulator.MAX_LINKS:,}",
        "a simulated network: hosts, links": f"{network.MAX_PLACES:,}, {network.MAX_LINKS:,}",
        "a node's examples: number, bytes, files of a folder": f"{sources.MAX_EXAMPLES:,}, "
        f"{sources.MAX_BYTES >> 30} GiB, {archives.MAX_FILES:,}",
        "a table of examples: columns, characters of a field; pixels of a picture": ", ".join(
            (f"{tables.MAX_COLUMNS:,}", f"{tables.MAX_FIELD:,}; {pictures.MAX_PIXELS:,}")
        ),
        "a trainable model: its description, examples of a batch, of its calibration": "1 MiB, "
        f"{export.MAX_BATCH:,}, {export.MAX_CALIBRATION}",
        "examples of a task's batch": f"{local.MAX_BATCH:,}",
        "a pipeline: its file, steps, inputs; boxes and rows, side of an image, anchors, elements of what a "
        "transform makes": f"{MAX_FILE_BYTES >> 20} MiB, {pipeline.MAX_STEPS}, {pipeline.MAX_INPUTS}; "
        f"{transforms.MAX_ROWS}, {transforms.MAX_SIDE:,}, {transforms.MAX_ANCHORS:,}, "
        f"{transforms.MAX_ELEMENTS:,}",
        "a preprocessing: its file, columns, places of categories, side of a picture, numbers of an "
        "example": f"{steps.MAX_BYTES >> 20} MiB, {steps.MAX_COLUMNS:,}, {steps.MAX_CATEGORIES:,}, "
        f"{steps.MAX_SIDE:,}, {steps.MAX_VALUES:,}",
        "a raw picture: its file, pixels": f"{images.MAX_FILE_BYTES >> 20} MiB, {images.MAX_PIXELS:,}",
        "a raw table or recording: its file, rows, characters of a field": ", ".join(
            (
                f"{raw_tables.MAX_FILE_BYTES >> 30} GiB",
                f"{raw_tables.MAX_ROWS:,}",
                f"{raw_tables.MAX_FIELD:,}",
            )
        ),
        "raw input of one `collab run`, as tensors": f"{MAX_RAW_BYTES >> 30} GiB",
        "a bundle: its manifest, files, one file, preprocessing or labels or card, examples of a tensor, "
        "variants, labels": f"{bundle.MAX_MANIFEST_BYTES >> 20} MiB, {bundle.MAX_FILES}, "
        f"{bundle.MAX_FILE_BYTES >> 30} GiB, {bundle.MAX_SIDE_BYTES >> 20} MiB, "
        f"{bundle.MAX_GOLDEN_BYTES >> 20} MiB, {bundle.MAX_VARIANTS}, {bundle.MAX_LABELS:,}",
        "a store of releases: earlier ones, events, its state; tries of a candidate that ends the process": (
            f"{store.MAX_PREVIOUS}, {store.MAX_HISTORY}, {store.MAX_STATE_BYTES >> 20} MiB; "
            f"{store.MAX_TRIALS + 1}"
        ),
        "packets under way in the emulator": f"{MAX_HELD:,}",
        "a federated task: rounds, clients, seconds of a deadline": f"{task.MAX_ROUNDS:,}, "
        f"{task.MAX_CLIENTS:,}, {task.MAX_SECONDS / 86_400:g} days",
        "held-out examples and requests that two models are compared on; models of a run that are kept for "
        "going back": f"{task.MAX_COMPARED:,}, {task.MAX_ASKED:,}; {KEPT_VERSIONS}",
        "models that a client names as held; metrics of its evaluation": f"{MAX_HELD_MODELS}; "
        f"{MAX_EVALUATED}",
        "an offer of training: its settings, what it names, its deadline": ""
        f"{MAX_SETTINGS_BYTES >> 10} KiB, {MAX_PARTS} blobs, {MAX_ORDER_S / 86_400:g} days",
        "a part of a blob that a node gives; a question for the state of an order": ""
        f"{MAX_PART_BYTES >> 20} MiB; {MAX_WAIT_S:g} s",
        "runs that a node remembers for training": f"{MAX_RUNS}; ",
        "children of a gateway; characters of what it says of one": f"{MAX_CHILDREN}; {MAX_REASON}",
        "clients left out, in the record of one round": f"{MAX_LEFT_OUT:,}; ",
        "an invitation to a secure sum; any message of one at a node": f"{MAX_INVITATION_BYTES >> 10} KiB; "
        f"{MAX_MESSAGE_BYTES >> 20} MiB",
        "a phase of a secure sum beside training; a lost link in it": f"{MAX_PHASE_S:g} s; {GRACE_S:g} s",
        "a secure sum: clients, numbers of a vector, a signature": f"3 to {messages.MAX_CLIENTS}, "
        f"{messages.MAX_LENGTH:,}, {messages.MAX_SIGNATURE_BYTES:,} bytes",
        "rounds that a privacy budget counts": f"{accounting.MAX_ROUNDS:,}",
        "a request of the front door: body, all that are held; headers; tensors of a batch": (
            f"`--max-body-bytes`, {door.body_bytes >> 20} MiB by default, {door.held_bytes >> 20} MiB; "
            f"{door.header_bytes >> 10} KiB; {MAX_BATCH}"
        ),
        "its clients: connections, calls over gRPC, of one stream, requests that wait for a credit of a "
        "plan": f"{door.connections}, {door.calls}, {door.stream_calls}, {MAX_OFFER_WAITING:,}",
        "how long it waits: for headers, for a body or for its answer to be taken, between requests": (
            f"{door.header_s:g} s, {door.body_s:g} s and a second for each {door.body_bytes_s >> 10} KiB, "
            f"{door.idle_s:g} s"
        ),
        "JSON before binary tensors, parameters, characters of an id, deadline; files that are decoded at a "
        "time": f"{MAX_HEAD >> 20} MiB, {MAX_PARAMETERS}, {MAX_ID}, {MAX_DEADLINE_S:g} s; {MAX_AT_ONCE}",
        "API keys; clients whose rate is remembered": f"{MAX_KEYS:,}; {MAX_RATED:,}, ",
        "flows of a NAT in it": f"{MAX_FLOWS:,}, ",
        "a message of federated learning: tensors, all of them as they come out": f"{MAX_TENSORS:,}, "
        f"{DEFAULT_MOST_BYTES >> 20} MiB",
        "an update: metrics, characters of a name": f"{MAX_METRICS}, {MAX_NAME}",
        "a round's sum: an element of an update, weights together, updates of a gateway's sum": ""
        f"{MAX_VALUE:,.0f}, {MAX_WEIGHT:,}, {MAX_TERMS:,}",
        "an update policy: its file, rules, clauses, depth": f"{MAX_POLICY_BYTES >> 10} KiB, "
        f"{clauses.MAX_RULES}, {clauses.MAX_CLAUSES}, {clauses.MAX_DEPTH}",
        "a device's state for it: features, bins of each, periods of labelled feedback, latencies": ""
        f"{state.MAX_FEATURES}, {state.MAX_BINS}, {state.MAX_TALLIES}, {state.MAX_LATENCIES}",
        "of a spool, that a robust rule holds at a time": f"{BLOCK_BYTES >> 20} MiB",
    }
    assert not {name: rows.get(name) for name, value in expected.items() if value not in rows.get(name, "")}
    assert f"{retry.max_requests:,} requests under way" in text
    assert f"{retry.grace_us // 1000} ms between" in text


def test_the_table_of_statuses_is_that_of_the_code():
    text = (ROOT / "docs/serving.md").read_text("utf-8")
    rows = re.findall(r"^\| (?:`(\w+)`|everything else)[^|]* \| (\d+) \| (\w+) \|$", text, re.MULTILINE)
    told = [(code or "internal", int(http), status) for code, http, status in rows]
    assert told == [(kind.code, status.http, status.grpc) for kind, status in TABLE]


def test_the_table_of_verbs_is_that_of_the_code_and_has_all_of_the_specification():
    text = (ROOT / "docs/serving.md").read_text("utf-8").partition("## Tensors")[0]
    routes = {path for paths in re.findall(r"`(?:GET|POST) (/[^`]+)`", text) for path in _versions(paths)}
    described = {
        re.sub(r"\{(\w)\w*\}", lambda m: {"n": "NAME", "v": "V"}[m[1]], path)
        for path in describe("0")["paths"]
    }
    assert routes == described
    calls = set(re.findall(r"\| `([A-Z]\w+)` \|$", text, re.MULTILINE))
    service = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert calls == {method.name for method in service.methods}
    required = {"ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"}
    assert required <= calls


def _versions(path: str) -> list[str]:
    """A path with an optional part, with and without it."""
    found = re.fullmatch(r"(.*)\[(.*)\](.*)", path)
    return [path] if found is None else [found[1] + found[3], found[1] + found[2] + found[3]]


def anchors(page: Path) -> set[str]:
    """Headings as links name them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_somewhere(page):
    for target in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", DOCS, ids=NAMES[: len(DOCS)])
def test_every_file_named_in_code_exists(page):
    text = FENCE.sub("", page.read_text("utf-8"))
    named = re.findall(r"`((?:collab|docs|protos|tests|scripts|requirements)/[\w./-]*)`", text)
    in_package = re.findall(
        r"`((?:cli|client|codec|coordinator|core|graph|link|node|planner|runtime|transport)/\w+\.py)`", text
    )
    missing = [name for name in named if not (ROOT / name).exists()]
    missing += [name for name in in_package if not (ROOT / "collab" / name).exists()]
    assert not missing


def test_the_bounds_of_what_devices_report_are_those_of_the_code():
    text = (ROOT / "docs/architecture.md").read_text("utf-8").partition("## Memory and bounds")[2]
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|", text, re.MULTILINE))
    held = f"{observing.MAX_WAITING:,}"
    assert {
        "what a node reports: bytes, links, plans": f"{condition.MAX_CONDITION_BYTES >> 20} MiB, "
        f"{condition.MAX_LINKS}, {condition.MAX_MODELS}",
        "a model's reference: bytes, features, bins, channels, values looked at of a tensor": (
            f"{reference.MAX_REFERENCE_BYTES >> 20} MiB, {state.MAX_FEATURES}, {state.MAX_BINS}, "
            f"{reference.MAX_CHANNELS}, {reference.MAX_VALUES:,}"
        ),
        "samples, and answers, that a stage holds; answers of an epoch that may be judged; "
        "counts on the disk": f"{held}; {held}; {feedback.MAX_KEPT_BYTES >> 20} MiB",
        "power supplies and sensors that are read; a file of the kernel": f"{surroundings.MAX_SUPPLIES}, "
        f"{surroundings.MAX_SENSORS}; {surroundings.MAX_FILE_BYTES >> 10} KiB",
    }.items() <= rows.items()
