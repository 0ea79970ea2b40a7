"""``collab fed simulate``: a whole task with the LiteRT trainer, in this process."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.integration.processes import ROOT, collab, command


@pytest.fixture
def place(tmp_path):
    """A folder with a task, examples of all clients and examples to test on."""
    digits = np.load(ROOT / "collab" / "assets" / "digits_heldout.npz")
    x, y = digits["images"], digits["labels"]
    np.savez(tmp_path / "train.npz", x=x[:400], y=y[:400], owner=np.array([f"w{i % 25}" for i in range(400)]))
    np.savez(tmp_path / "test.npz", x=x[400:], y=y[400:])
    write_task(tmp_path)
    return tmp_path


def write_task(folder: Path, **fields):
    tree = {
        "name": "digits",
        "model": str(ROOT / "tests" / "data" / "trainable_mlp.tflite"),
        "rounds": 3,
        "cohort": {"select": "random", "count": 10},
        "training": {"batch_size": 20, "epochs": 3, "learning_rate": 0.1},
        "evaluation": {"where": "server", "data": "test.npz"},
        "compression": {"up": {"elements": "int8"}},
        **fields,
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(tree))


def simulate(folder, *options, code=0):
    done = command(
        "fed",
        "simulate",
        folder / "task.yaml",
        "--data",
        folder / "train.npz",
        "--scale",
        255,
        "--jobs",
        1,
        *options,
    )
    assert done.code == code, done
    return done


def test_a_task_is_simulated_with_the_trainer_of_nodes(place):
    out = place / "out"
    done = simulate(place, "--test", place / "test.npz", "--clients", 40, "--out", out, "--json").json
    assert (done["outcome"], done["rounds"]) == ("done", 3)
    assert done["partition"]["clients"] == 40
    assert done["evaluation"]["accuracy"] > 0.4
    assert done["evaluation"]["samples"] == 100
    assert len(done["server_mb"]) == 3
    records = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    assert [len(record["took_part"]) for record in records] == [10, 10, 10]
    assert json.loads((out / "summary.json").read_text()) == done
    assert (out / "partition.svg").read_text().count("<rect") > 40
    assert 4 * 50_890 / 3 > records[0]["up_bytes"] / 10 > 50_890 / 10
    again = simulate(place, "--test", place / "test.npz", "--clients", 40, "--json").json
    assert again["model"] == done["model"]


@pytest.mark.slow
def test_two_processes_make_the_same_model_as_one(place):
    write_task(place, rounds=2)
    one = simulate(place, "--test", place / "test.npz", "--json").json
    words = (
        "fed",
        "simulate",
        place / "task.yaml",
        "--data",
        place / "train.npz",
        "--test",
        place / "test.npz",
    )
    two = collab(*words, "--scale", 255, "--jobs", 2, "--json").json
    assert (two["model"], two["outcome"]) == (one["model"], "done")


def test_owners_are_clients_and_evaluate_on_their_own(place):
    write_task(place, rounds=1, cohort={}, evaluation={"where": "clients"})
    done = simulate(place, "--partition", "natural", "--clients", 0, "--held-out", 0.25).err
    assert "25" in done
    assert "accuracy" in done


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--partition", "zipf"), "use one of iid"),
        (("--clients", 401), "at most 400 clients"),
        ((), "--test: it is missing"),
        (("--drop-outs", 1), "--drop-outs 1: give 0 to 0.99"),
        (("--mbit-s", 0), "--mbit-s 0: give a number above 0"),
        (("--jobs", -1), "--jobs -1"),
        (("--held-out", 0.9, "--clients", 400, "--at-least", 1, "--data", "none.npz"), "none.npz"),
    ],
)
def test_what_cannot_be_is_one_line_that_says_what_can(place, options, said):
    test = () if not options else ("--test", place / "test.npz")
    done = simulate(place, *test, *options, code=simulate_code(said))
    assert len(done.errors) == 1
    assert said in done.errors[0]


def simulate_code(said):
    return 1 if said == "none.npz" else 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"secure_aggregation": True, "compression": {"up": {"top": 0.1}}}, "compression.up.top"),
        ({"compression": {"up": {"elements": "int8"}}, "secure_aggregation": {}}, "secure_aggregation"),
        ({"model": "missing.tflite"}, "missing.tflite: no such file"),
    ],
)
def test_tasks_that_cannot_be_simulated_are_refused(place, fields, said):
    write_task(place, **{"compression": {}, **fields})
    done = command(
        "fed", "simulate", place / "task.yaml", "--data", place / "train.npz", "--test", place / "test.npz"
    )
    assert done.code in (1, 2)
    assert said in done.errors[0]
