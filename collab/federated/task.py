"""A federated task file: what is trained, by whom, and by which rules."""

from __future__ import annotations

import math
from typing import Any, Final, Literal, Union

import msgspec

from collab.core.decoding import prepare
from collab.core.plan import Frozen
from collab.errors import ConfigError
from collab.federated.aggregate.settings import Aggregation
from collab.federated.combinations import Feature, check_combination, features
from collab.federated.compression.settings import Compression
from collab.federated.gate import GateSettings
from collab.federated.privacy.fixed_point import Encoding
from collab.federated.privacy.messages import MAX_CLIENTS as MAX_SUMMED
from collab.federated.privacy.messages import default_threshold
from collab.federated.task_fields import converted
from collab.federated.update import LocalTraining

MAX_ROUNDS: Final = 1_000_000
MAX_CLIENTS: Final = 1_000_000
MAX_SECONDS: Final = 30 * 86_400.0
MAX_COMPARED: Final = 100_000
"""Held-out examples that two models are compared on."""
MAX_ASKED: Final = 1_000
"""Requests over the nodes that they are compared on."""


class Clients(Frozen, frozen=True, kw_only=True):
    """Who may take part."""

    peers: tuple[str, ...] = ()
    """Addresses of nodes, as ``--peers`` takes them."""
    minimum: int = 1
    """So many are waited for before the first round."""
    wait_s: float = 60.0
    """How long to wait for clients that are missing: at first, or for enough to hold a round."""


class Cohort(Frozen, frozen=True, kw_only=True):
    """Who is asked in a round, among those that are connected, willing and not in quarantine."""

    select: Literal["all", "random", "available", "deadline"] = "all"
    """``available``: those first whose orders came to nothing least often of late.
    ``deadline``: those whose measured times let them answer by the round's deadline."""
    count: Union[int, None] = None
    """Updates that a round wants; give this or ``fraction``, but with ``all`` neither."""
    fraction: Union[float, None] = None
    """Of those that could be asked."""
    over_selection: float = 1.0
    """So many times as many are asked as are wanted; the last ones are left out."""


class Late(Frozen, frozen=True, kw_only=True):
    """Updates that come after their round was closed."""

    policy: Literal["drop", "discount"] = "drop"
    """``discount``: counted in the round that gathers then, with less weight."""
    max_staleness: int = 2
    """Rounds that one may be late."""


class RoundRules(Frozen, frozen=True, kw_only=True):
    """When a round closes."""

    deadline_s: float = 300.0
    """From its opening.  In asynchronous mode also what an order may take."""
    quorum: float = 0.5
    """Share of the wanted updates without which the model stays as it is."""
    least: int = 1
    """And never fewer updates than these."""
    on_lack: Literal["extend", "skip", "fail"] = "extend"
    """What a round without a quorum does at its deadline."""
    extensions: int = 2
    """Deadlines that it gets beyond the first with ``extend``; then the run fails."""
    late: Late = Late()

    def quorum_of(self, wanted: int) -> int:
        """Updates that make a round count when so many are wanted."""
        return max(1, self.least, math.ceil(self.quorum * wanted - 1e-9))


class Buffered(Frozen, frozen=True, kw_only=True):
    """Asynchronous rounds (FedBuff, Nguyen et al., AISTATS 2022)."""

    buffer: int = 10
    """Updates that make the next model (K)."""
    concurrency: int = 20
    """Clients that train at a time."""
    max_staleness: int = 20
    """Older updates are dropped."""


class Evaluation(Frozen, frozen=True, kw_only=True):
    """How good the model is."""

    every: int = 1
    """Rounds; the last one is always evaluated, 0: none is."""
    where: Literal["clients", "server"] = "clients"
    count: Union[int, None] = None
    """Clients that are asked, at random; all if it is left out."""
    data: str = ""
    """The server's held-out examples, from the task's folder."""
    deadline_s: float = 60.0


class Target(Frozen, frozen=True, kw_only=True):
    """The run ends when an evaluation reaches it."""

    metric: str = "accuracy"
    """``loss`` is reached from above, others from below."""
    value: float

    def reached(self, metrics: dict[str, float]) -> bool:
        """Whether an evaluation is good enough."""
        found = metrics.get(self.metric)
        if found is None:
            return False
        return found <= self.value if self.metric == "loss" else found >= self.value


class QuarantineRules(Frozen, frozen=True, kw_only=True):
    """What happens to a client whose update the gate refused."""

    after: int = 1
    """Refusals that put it out."""
    rounds: Union[int, None] = 5
    """How long; null: until it is released by hand."""


class Privacy(Frozen, frozen=True, kw_only=True):
    """Differential privacy of each client: updates are clipped, and noise is added."""

    clip: float
    """L2 norm that an update is scaled down to; with ``adaptive`` the first one."""
    noise_multiplier: float
    """Standard deviation of the noise over ``clip``."""
    place: Literal["central", "local"] = "central"
    """Who adds it: the server once, or each client to its own update."""
    adaptive: bool = False
    """The bound follows the clients' norms (Andrew et al., NeurIPS 2021)."""
    epsilon: Union[float, None] = None
    """The run ends before more than this is spent; null: it is only counted."""
    delta: float = 1e-5


class SecureAggregation(Frozen, frozen=True, kw_only=True):
    """Updates are masked, and only their sum can be read (Bonawitz et al., CCS 2017)."""

    threshold: Union[int, float, None] = None
    """Clients that have to stay to the end: a number, or with a point a share of those who have accepted;
    more than two thirds if it is left out, and more than half in any case."""
    encoding: Encoding = Encoding()
    """How values become whole numbers; with central privacy they are its own."""

    def threshold_of(self, invited: int) -> int:
        """Clients that have to stay when so many are invited."""
        if self.threshold is None:
            return default_threshold(invited)
        given = self.threshold
        least = math.ceil(given * invited - 1e-9) if isinstance(given, float) else given
        return max(least, invited // 2 + 1)


class DeployRules(Frozen, frozen=True, kw_only=True):
    """How new models go into a plan that runs."""

    plan: str
    """The running plan's file, from the task's folder."""
    every: int = 1
    """Rounds between two tries; 0: only when the run is over, which is always tried."""
    minimum_gain: float = 0.0
    """By how much a model must be better on held-out examples: more accuracy, or less loss where there
    is none; below 0 it is how much worse it may be."""
    tolerance: float = 0.5
    """Share by which its answers over the nodes may be slower than those of the plan that runs."""
    examples: int = 1000
    """Held-out examples of the server that both models are compared on, at most."""
    requests: int = 20
    """Answers over the nodes that are compared before it takes over."""


class Encodings(Frozen, frozen=True, kw_only=True):
    """How weights are written."""

    up: Compression = Compression()
    """Updates."""
    down: Compression = Compression()
    """The model."""


class Task(Frozen, frozen=True, kw_only=True):
    """A whole task file."""

    name: str
    model: str
    """The trainable bundle, from the task's folder."""
    rounds: int
    target: Union[Target, None] = None
    clients: Clients = Clients()
    transports: tuple[Literal["grpc", "mqtt", "mqtt-qos0", "coap+tcp", "coap+udp", "inproc"], ...] = ()
    """Allowed for links to clients; empty: any."""
    gateways: bool = False
    """Whether gateways are meant to take part: what does not go with them is then refused at once, where
    else it leaves them out."""
    cohort: Cohort = Cohort()
    training: LocalTraining = LocalTraining()
    round: RoundRules = RoundRules()
    mode: Literal["sync", "async"] = "sync"
    buffered: Buffered = Buffered()
    aggregation: Aggregation = Aggregation()
    gate: GateSettings = GateSettings()
    compression: Encodings = Encodings()
    privacy: Union[Privacy, None] = None
    secure_aggregation: Union[SecureAggregation, bool] = False
    """``true`` for the defaults."""
    evaluation: Evaluation = Evaluation()
    quarantine: QuarantineRules = QuarantineRules()
    deploy: Union[DeployRules, None] = None
    """Where its models run; none: they are only written down."""
    seed: int = 0
    checkpoint: str = ""
    """Folder of the run's journal and weights; empty: beside the output."""

    @property
    def secure(self) -> Union[SecureAggregation, None]:
        """The settings of secure aggregation; None where updates are not masked."""
        given = self.secure_aggregation
        if isinstance(given, bool):
            return SecureAggregation() if given else None
        return given


def convert_task(tree: Any) -> Task:
    """A checked task from what its YAML file holds; raises `ConfigError` that names field and remedy."""
    task = converted(tree, Task)
    check_task(task)
    return task


def check_task(task: Task) -> None:
    """Raise `ConfigError` for the first rule that is broken."""
    _whole("rounds", task.rounds, 1, MAX_ROUNDS)
    _whole("clients.minimum", task.clients.minimum, 1, MAX_CLIENTS)
    _seconds("clients.wait_s", task.clients.wait_s)
    _check_training(task.training)
    _check_cohort(task)
    _check_round(task.round)
    if task.mode == "async" and task.round.on_lack == "skip":
        raise ConfigError("round.on_lack: skip is for mode sync; use extend or fail")
    _check_aggregation(task)
    check_combination(task_features(task))
    if task.privacy is not None:
        _check_privacy(task.privacy)
    if task.secure is not None:
        _check_secure(task, task.secure)
    _whole("buffered.buffer", task.buffered.buffer, 1, MAX_CLIENTS)
    _whole("buffered.concurrency", task.buffered.concurrency, 1, MAX_CLIENTS)
    _whole("buffered.max_staleness", task.buffered.max_staleness, 0, MAX_ROUNDS)
    _whole("evaluation.every", task.evaluation.every, 0, MAX_ROUNDS)
    _seconds("evaluation.deadline_s", task.evaluation.deadline_s)
    if task.evaluation.count is not None:
        _whole("evaluation.count", task.evaluation.count, 1, MAX_CLIENTS)
    if task.evaluation.every and task.evaluation.where == "server" and not task.evaluation.data:
        raise ConfigError(
            "evaluation.data: it is missing; name the server's held-out examples, or where: clients"
        )
    if task.target is not None and not task.evaluation.every:
        raise ConfigError("target: nothing is evaluated; set evaluation.every to 1 or more, or leave it out")
    if task.deploy is not None:
        check_deploy(task, task.deploy)
    _whole("quarantine.after", task.quarantine.after, 1, MAX_ROUNDS)
    if task.quarantine.rounds is not None:
        _whole("quarantine.rounds", task.quarantine.rounds, 1, MAX_ROUNDS)


def check_deploy(task: Task, rules: DeployRules) -> None:
    """The same for how a task's models are deployed."""
    if not rules.plan:
        raise ConfigError("deploy.plan: it is empty; name the running plan's file")
    _whole("deploy.every", rules.every, 0, MAX_ROUNDS)
    _whole("deploy.examples", rules.examples, 1, MAX_COMPARED)
    _whole("deploy.requests", rules.requests, 1, MAX_ASKED)
    if not math.isfinite(rules.minimum_gain):
        raise ConfigError(f"deploy.minimum_gain: {rules.minimum_gain}; give a finite number")
    if not 0 <= rules.tolerance < math.inf:
        raise ConfigError(f"deploy.tolerance: {rules.tolerance:g}; give a share of 0 or more")
    evaluation = task.evaluation
    if evaluation.data:
        return
    if not evaluation.every:
        raise ConfigError(
            "deploy: nothing is evaluated, so no model can be compared; "
            "set evaluation.data or evaluation.every"
        )
    if rules.every % evaluation.every:
        raise ConfigError(
            f"deploy.every: {rules.every}; clients evaluate every {evaluation.every} rounds; "
            "give a multiple of that, or set evaluation.data"
        )


def _check_training(training: LocalTraining) -> None:
    _whole("training.epochs", training.epochs, 1, 10_000)
    _whole("training.batch_size", training.batch_size, 1, 1 << 20)
    if training.max_steps is not None:
        _whole("training.max_steps", training.max_steps, 1, 1 << 31)
    if training.optimizer not in ("sgd", "momentum", "adam"):
        raise ConfigError(f"training.optimizer: {training.optimizer!r}; use sgd, momentum or adam")
    if not 0 < training.learning_rate < math.inf:
        raise ConfigError(f"training.learning_rate: {training.learning_rate:g}; give more than 0")
    if not 0 <= training.proximal < math.inf:
        raise ConfigError(f"training.proximal: {training.proximal:g}; give 0 or more")
    _share("training.momentum", training.momentum, least=0.0)


def _check_cohort(task: Task) -> None:
    cohort = task.cohort
    if cohort.count is not None:
        _whole("cohort.count", cohort.count, 1, MAX_CLIENTS)
    if cohort.fraction is not None:
        _share("cohort.fraction", cohort.fraction)
    if not 1 <= cohort.over_selection <= 100:
        raise ConfigError(f"cohort.over_selection: {cohort.over_selection:g}; give 1 to 100")
    given = [name for name in ("count", "fraction") if getattr(cohort, name) is not None]
    if task.mode == "async":
        if given:
            raise ConfigError(f"cohort.{given[0]}: not with mode async; set buffered.concurrency and buffer")
        return
    if cohort.select == "all" and given:
        raise ConfigError(f"cohort.{given[0]}: not with select all; use select: random")
    if cohort.select == "all" and cohort.over_selection > 1:
        raise ConfigError("cohort.over_selection: select all asks everybody; use select: random and count")
    if cohort.select != "all" and len(given) != 1:
        raise ConfigError("cohort.count: give exactly one of count and fraction")


def _check_round(rules: RoundRules) -> None:
    _seconds("round.deadline_s", rules.deadline_s)
    _share("round.quorum", rules.quorum)
    _whole("round.least", rules.least, 1, MAX_CLIENTS)
    _whole("round.extensions", rules.extensions, 0, 1_000)
    _whole("round.late.max_staleness", rules.late.max_staleness, 1, MAX_ROUNDS)


def _check_aggregation(task: Task) -> None:
    rules = task.aggregation.check(task.training)
    task.gate.check()
    if rules.rule == "fedbuff" and task.mode == "sync":
        raise ConfigError("aggregation.rule: fedbuff is for mode async; set mode: async, or use fedavg")
    if task.mode == "async" and task.buffered.buffer < rules.least:
        raise ConfigError(
            f"buffered.buffer: {task.buffered.buffer}; {rules.combine} needs {rules.least} updates or more"
        )
    if task.round.least < rules.least:
        raise ConfigError(
            f"round.least: {task.round.least}; {rules.combine} needs {rules.least} updates or more"
        )


def task_features(task: Task) -> set[Feature]:
    """What a task asks for; raises `ConfigError` for a form of compression that cannot be."""
    others = {
        Feature.HIERARCHICAL: task.gateways,
        Feature.LATE: task.mode == "sync" and task.round.late.policy == "discount",
        Feature.ASYNC: task.mode == "async",
        Feature.CENTRAL_DP: task.privacy is not None and task.privacy.place == "central",
        Feature.LOCAL_DP: task.privacy is not None and task.privacy.place == "local",
        Feature.SECURE: task.secure is not None,
    }
    up, down = task.compression.up.check("compression.up"), task.compression.down.check("compression.down")
    return features(task.aggregation, task.gate, up, down, (f for f, wanted in others.items() if wanted))


def _check_privacy(private: Privacy) -> None:
    for name in ("clip", "noise_multiplier", "epsilon"):
        value = getattr(private, name)
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"privacy.{name}: {value:g}; give more than 0")
    if not 0 < private.delta < 1:
        raise ConfigError(f"privacy.delta: {private.delta:g}; give a number over 0, under 1")


def _check_secure(task: Task, secure: SecureAggregation) -> None:
    where = "secure_aggregation.threshold"
    if isinstance(secure.threshold, float):
        _share(where, secure.threshold)
    elif secure.threshold is not None:
        _whole(where, secure.threshold, 2, MAX_SUMMED)
    count = math.ceil((task.cohort.count or task.clients.minimum) * task.cohort.over_selection)
    if count > MAX_SUMMED:
        raise ConfigError(
            f"cohort.count: secure_aggregation sums at most {MAX_SUMMED} clients a round, {count} are asked"
        )
    try:
        secure.encoding.check(max(count, 3))
    except ConfigError as error:
        raise ConfigError(f"secure_aggregation.{error}") from error


def _whole(where: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{where}: {value}; give {least} to {most}")


def _share(where: str, value: float, least: float | None = None) -> None:
    if not (0 < value <= 1 or value == least):
        raise ConfigError(f"{where}: {value:g}; give a share over 0, at most 1")


def _seconds(where: str, value: float) -> None:
    if not 0 < value <= MAX_SECONDS:
        raise ConfigError(f"{where}: {value:g}; give seconds over 0, at most {MAX_SECONDS:g}")


def task_bytes(task: Task) -> bytes:
    """The task in one form, whatever its file looks like; a run resumes only with the same."""
    return msgspec.json.encode(task, order="deterministic")


prepare(Task)
