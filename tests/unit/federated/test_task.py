"""The task file: what is wrong is named with its field and what to write."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import yaml

from collab.errors import ConfigError
from collab.federated.task import Task, convert_task, task_bytes

LEAST = {"name": "toy", "model": "m.tflite", "rounds": 2}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rouns": 3}, ["rouns: there is no such field", "rounds"]),
        ({"training": {"epoch": 3}}, ["training.epoch: there is no such field", "epochs"]),
        ({"round": {"late": {"polcy": "drop"}}}, ["round.late.polcy", "policy"]),
        ({"aggregation": {"server": {"optimizer": "adam", "beta1": 0.9}}}, ["server.beta1", "beta_1"]),
        ({"rounds": 0}, ["rounds: 0", "1 to"]),
        ({"rounds": "ten"}, ["rounds", "int"]),
        ({"mode": "asink"}, ["mode", "asink"]),
        ({"cohort": {"select": "all", "count": 3}}, ["cohort.count", "random"]),
        ({"cohort": {"select": "random"}}, ["cohort.count", "exactly one"]),
        ({"cohort": {"select": "random", "count": 2, "fraction": 0.5}}, ["cohort.count", "exactly one"]),
        ({"cohort": {"select": "random", "fraction": 1.5}}, ["cohort.fraction: 1.5", "share"]),
        ({"cohort": {"over_selection": 1.5}}, ["cohort.over_selection", "random"]),
        ({"cohort": {"select": "random", "count": 1, "over_selection": 0.5}}, ["over_selection: 0.5"]),
        ({"mode": "async", "cohort": {"select": "random", "count": 3}}, ["cohort.count", "buffered"]),
        ({"mode": "async", "round": {"on_lack": "skip"}}, ["round.on_lack", "extend"]),
        ({"round": {"quorum": 0.0}}, ["round.quorum", "share"]),
        ({"round": {"deadline_s": float("nan")}}, ["round.deadline_s", "seconds"]),
        ({"training": {"learning_rate": -1.0}}, ["training.learning_rate: -1"]),
        ({"training": {"optimizer": "lamb"}}, ["training.optimizer", "adam"]),
        ({"evaluation": {"where": "server"}}, ["evaluation.data", "missing"]),
        ({"evaluation": {"every": 0}, "target": {"value": 0.9}}, ["target", "evaluation.every"]),
        ({"gateways": True, "aggregation": {"combine": "median"}}, ["combine: median", "gateways send sums"]),
        ({"gateways": True, "aggregation": {"rule": "scaffold"}}, ["rule: scaffold", "gateways"]),
        (
            {"gateways": True, "round": {"late": {"policy": "discount"}}},
            ["late.policy: discount", "gateways"],
        ),
        ({"gateways": True, "mode": "async"}, ["gateways", "mode: async"]),
        ({"aggregation": {"rule": "fedbuff"}}, ["aggregation.rule", "async"]),
        ({"aggregation": {"combine": "krum", "byzantine": 2}}, ["round.least: 1", "7 updates"]),
        ({"secure_aggregation": True, "mode": "async"}, ["secure_aggregation", "mode: async"]),
        ({"secure_aggregation": {"threshold": 1}}, ["secure_aggregation.threshold", "give 2 to 512"]),
        ({"secure_aggregation": {"threshold": 1.5}}, ["secure_aggregation.threshold", "at most 1"]),
        ({"secure_aggregation": {"treshold": 3}}, ["secure_aggregation.treshold", "threshold"]),
        ({"secure_aggregation": {}, "clients": {"minimum": 600}}, ["secure_aggregation", "at most 512"]),
        (
            {"secure_aggregation": {"encoding": {"ring_bits": 32}}},
            ["secure_aggregation.encoding", "do not fit 32 bits"],
        ),
        ({"aggregation": {"rule": "scaffold"}, "mode": "async"}, ["aggregation.rule", "mode: async"]),
        ({"compression": {"up": {"top": 2.0}}}, ["compression.up.top"]),
        ({"compression": {"up": {"element": "int8"}}}, ["compression.up.element", "elements"]),
        ({"privacy": {"clip": 0.0, "noise_multiplier": 1.0, "place": "local"}}, ["privacy.clip: 0"]),
        ({"privacy": {"clip": 1.0, "noise_multiplier": 1.0}}, ["privacy.place", "weighting"]),
        ({"privacy": {"clip": 1.0}}, ["privacy", "noise_multiplier"]),
        ({"deploy": {}}, ["deploy", "plan"]),
        ({"deploy": {"plan": "p.yaml", "evry": 2}}, ["deploy.evry", "every"]),
        ({"deploy": {"plan": ""}}, ["deploy.plan", "empty"]),
        ({"deploy": {"plan": "p.yaml", "every": -1}}, ["deploy.every: -1"]),
        ({"deploy": {"plan": "p.yaml", "requests": 0}}, ["deploy.requests: 0"]),
        ({"deploy": {"plan": "p.yaml", "tolerance": -0.1}}, ["deploy.tolerance: -0.1"]),
        ({"deploy": {"plan": "p.yaml", "minimum_gain": float("inf")}}, ["deploy.minimum_gain", "finite"]),
        ({"deploy": {"plan": "p.yaml"}, "evaluation": {"every": 0}}, ["deploy", "evaluation.data"]),
        ({"deploy": {"plan": "p.yaml", "every": 3}, "evaluation": {"every": 2}}, ["deploy.every: 3"]),
    ],
)
def test_what_is_wrong_is_named_with_the_remedy(change, words):
    with pytest.raises(ConfigError) as caught:
        convert_task(LEAST | change)
    text = str(caught.value)
    assert [word for word in words if word not in text] == [], text
    assert "\n" not in text


@pytest.mark.parametrize("tree", [None, [], "text", 3])
def test_what_is_no_mapping_is_refused(tree):
    with pytest.raises(ConfigError, match="mapping"):
        convert_task(tree)


def test_the_least_task_is_enough():
    task = convert_task(LEAST)
    assert (task.mode, task.cohort.select, task.training.epochs) == ("sync", "all", 1)


def test_defaults_written_out_are_the_same_task():
    assert task_bytes(convert_task(LEAST)) == task_bytes(convert_task(LEAST | {"mode": "sync", "seed": 0}))
    assert task_bytes(convert_task(LEAST)) != task_bytes(convert_task(LEAST | {"seed": 1}))


@pytest.mark.parametrize(
    ("quorum", "least", "wanted", "needed"), [(0.5, 1, 5, 3), (0.3, 1, 10, 3), (0.1, 4, 5, 4)]
)
def test_a_quorum_is_a_share_and_never_fewer_than_the_least(quorum, least, wanted, needed):
    task = convert_task(LEAST | {"round": {"quorum": quorum, "least": least}})
    assert task.round.quorum_of(wanted) == needed


DOC = Path(__file__).parents[3] / "docs/federated/rounds.md"


def test_the_task_in_the_docs_is_one():
    (sample,) = re.findall(r"```yaml\n(.*?)```", DOC.read_text("utf-8"), re.DOTALL)
    task = convert_task(yaml.safe_load(sample))
    assert (task.cohort.count, task.compression.up.elements) == (10, "int8")


def test_the_docs_name_every_field_of_a_task_and_its_default():
    text = DOC.read_text("utf-8")
    rows = " ".join(re.findall(r"^\| (`.*)$", text, re.MULTILINE))
    elsewhere = {"name", "model", "aggregation", "gate", "compression", "training", "privacy"}
    missing = []
    for field in msgspec.structs.fields(Task):
        if field.name in elsewhere:
            assert f"`{field.name}" in text
        elif isinstance(field.default, msgspec.Struct):
            inner = (f"`{field.name}.{part.name}" for part in msgspec.structs.fields(field.default))
            missing += [name for name in inner if name not in rows]
        elif f"`{field.name}" not in rows:
            missing.append(field.name)
    assert not missing
    defaults = {"round.deadline_s": "300", "clients.wait_s": "60", "quarantine.after": "1, 5", "seed": "0"}
    for name, value in defaults.items():
        assert re.search(rf"^\| `{re.escape(name)}`.*? \| {value} \|", text, re.MULTILINE), name


@pytest.mark.parametrize(
    ("given", "invited", "least"),
    [
        (True, 10, 7),
        ({}, 3, 3),
        ({"threshold": 8}, 10, 8),
        ({"threshold": 2}, 10, 6),
        ({"threshold": 0.75}, 10, 8),
    ],
)
def test_the_threshold_of_a_masked_sum_is_a_number_or_a_share_and_over_a_half(given, invited, least):
    task = convert_task({"name": "n", "model": "m", "rounds": 1, "secure_aggregation": given})
    assert task.secure.threshold_of(invited) == least


@pytest.mark.parametrize("given", [False, None])
def test_updates_are_masked_only_if_a_task_says_so(given):
    fields = {} if given is None else {"secure_aggregation": given}
    assert convert_task({"name": "n", "model": "m", "rounds": 1, **fields}).secure is None
