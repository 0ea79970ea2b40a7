"""The journal of what a plan ran, and what is read from an offer."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from collab.cli.files import write_plan
from collab.cli.replanning import plan_versions, successor_path
from collab.coordinator.plan_versions import KEPT_OUTCOMES, Noted, PlanVersions
from collab.coordinator.planning import open_model
from collab.coordinator.retarget import retarget
from collab.coordinator.update_source import Offer, check_fits, read_update
from collab.coordinator.version_folder import KEPT_VERSIONS
from collab.core.ids import Digest
from collab.core.plan import Plan
from collab.errors import ConfigError, IntegrityError, ModelError, PlanError
from collab.graph import parse_model
from collab.runtime.litert import LiteRT
from collab.updates.bundle.manifest import About, Port
from collab.updates.bundle.write import Parts, write_bundle
from collab.updates.release import Release, ReleaseInfo
from tests.integration.edited_models import DIGITS, sharper, shuffled
from tests.integration.models import DATA, Reference

REFERENCE = Reference.of("digits")


@pytest.fixture
def journal(tmp_path: Path) -> PlanVersions:
    plan, _ = REFERENCE.chain([10], ["a", "b"], {"a": "", "b": ""})
    (tmp_path / "digits.tflite").write_bytes(DIGITS.read_bytes())
    near = plan.replace(models=(msgspec.structs.replace(plan.models[0], path="digits.tflite"),))
    write_plan(tmp_path / "plan.yaml", near)
    return plan_versions(tmp_path / "plan.yaml")


def following(plan: Plan, data: bytes) -> Plan:
    old = open_model(Path(str(plan.models[0].path)))
    return retarget(plan, old, parse_model(data), "")[0]


def test_versions_come_and_go_and_the_newest_are_kept(journal: PlanVersions):
    (plan,) = journal.candidates()
    assert journal.runs(plan, 1).running.proven, "what was there before has nobody to be compared with"
    journal.runs(plan, 1)
    for number in range(2, KEPT_VERSIONS + 4):
        data = sharper(1 + number / 100)
        new = journal.propose(following(plan, data), data)
        assert Path(str(new.models[0].path)).read_bytes() == data
        assert [one.digest for one in journal.candidates()][:2] == [new.digest, plan.digest]
        state = journal.runs(new, number)
        assert (state.pending, state.running.epoch, state.running.proven) == (None, number, False)
        journal.proven()
        plan = new
    state = journal.state()
    assert len(state.versions) == KEPT_VERSIONS
    kept = {path.name for path in journal.files.path.iterdir() if path.suffix == ".tflite"}
    assert kept == {f"{version.name}.tflite" for version in state.versions}
    before = journal.former()
    journal.condemned("misreads sevens")
    journal.went_back(99)
    state = journal.state()
    assert (state.running.number, state.running.epoch, state.back) == (before.number, 99, "")


def test_what_somebody_else_deployed_is_taken_into_the_journal(journal: PlanVersions):
    (plan,) = journal.candidates()
    journal.runs(plan, 1)
    data = sharper()
    swapped = journal.path.with_name("swapped.tflite")
    swapped.write_bytes(data)
    other = following(plan, data)
    other = other.replace(models=(msgspec.structs.replace(other.models[0], path=str(swapped)),))
    write_plan(successor_path(journal.path), other)
    found = journal.candidates()
    assert {one.digest for one in found} == {plan.digest, other.digest}
    assert journal.runs(other, 2).running.model == other.models[0].sha256
    assert journal.former().plan == plan.digest


def test_what_was_about_to_be_deployed_is_known_after_a_crash(journal: PlanVersions):
    (plan,) = journal.candidates()
    journal.runs(plan, 1)
    new = journal.propose(following(plan, sharper()), sharper())
    journal.on_trial(7)
    again = PlanVersions(journal.path, successor_path(journal.path), lambda _: plan, lambda _: None)
    state = again.state()
    assert (state.trial, state.pending is not None, state.running.plan) == (7, True, plan.digest)
    state = again.runs(plan, 1)
    assert state.pending is None, "the nodes run the former one"
    assert again.propose(following(plan, sharper()), sharper()).digest == new.digest


def test_outcomes_are_bounded_and_the_first_version_has_none_before_it(journal: PlanVersions):
    (plan,) = journal.candidates()
    journal.runs(plan, 1)
    with pytest.raises(ConfigError, match="no version before"):
        journal.former()
    for number in range(KEPT_OUTCOMES + 3):
        journal.note(Noted(result="dropped", model=Digest("a"), epoch=number, reason="x" * 9999))
    outcomes = journal.state().outcomes
    assert (len(outcomes), outcomes[-1].epoch, len(outcomes[0].reason)) == (16, KEPT_OUTCOMES + 2, 500)


def test_a_model_that_is_not_the_plans_is_named(journal: PlanVersions):
    (plan,) = journal.candidates()
    Path(str(plan.models[0].path)).write_bytes(sharper())
    with pytest.raises(ModelError, match="another digest"):
        journal.runs(plan, 1)


# --- offers ------------------------------------------------------------------------


def bundle(path: Path, model: bytes, answers_of: bytes | None = None, variant: bytes | None = None) -> Path:
    graph = parse_model(model)
    golden = None
    if answers_of is not None:
        stage = LiteRT().load(answers_of)
        rows = [next(iter(request.values())) for request in REFERENCE.requests[:3]]
        made = [stage.run([row])[0] for row in rows]
        stage.close()
        golden = ({"image": rows}, {"probabilities": made}, str(LiteRT().runtime_class()))
    variants = {} if variant is None else {"cpu": (variant, "fp32.tflite", "")}
    given, made_of = (
        [Port(name=spec.name, shape=spec.shape, dtype=spec.dtype) for spec in specs]
        for specs in (graph.inputs, graph.outputs)
    )
    write_bundle(path, Parts(About(name="digits"), model, given, made_of, golden=golden, variants=variants))
    return path


def test_a_bundle_brings_its_examples_and_a_bare_model_one_of_ours(tmp_path: Path):
    good = sharper()
    update = read_update(Offer(bundle(tmp_path / "m.collab", good, good)), REFERENCE.graph, None)
    assert (len(update.examples), update.runtime_class) == (3, str(LiteRT().runtime_class()))
    (tmp_path / "m.tflite").write_bytes(good)
    bare = read_update(Offer(tmp_path / "m.tflite"), REFERENCE.graph, None)
    assert (len(bare.examples), bare.digest, bare.release) == (1, update.digest, None)


def test_of_several_models_the_one_that_fits_is_taken(tmp_path: Path):
    int8 = (DATA / "digits_int8.tflite").read_bytes()
    path = bundle(tmp_path / "m.collab", int8, variant=sharper())
    assert read_update(Offer(path), REFERENCE.graph, None).digest == parse_model(sharper()).sha256
    with pytest.raises(ModelError, match=r"does not fit the plan: .*collab plan"):
        read_update(Offer(bundle(tmp_path / "n.collab", int8)), REFERENCE.graph, None)


def test_a_file_that_is_not_what_was_signed_is_refused(tmp_path: Path):
    path = tmp_path / "m.tflite"
    path.write_bytes(shuffled())
    info = ReleaseInfo(family="digits", version=3)
    signed = Release(name="digits/stable/3.collab", version=3, sha256="0" * 64, size=1, custom=info)
    with pytest.raises(IntegrityError, match="version 3 of digits"):
        read_update(Offer(path, signed), REFERENCE.graph, None)
    with pytest.raises(ModelError, match="model package"):
        read_update(Offer(tmp_path / "none.tflite"), REFERENCE.graph, None)


def test_a_release_for_another_plan_or_other_cuts_is_refused():
    plan, _ = REFERENCE.chain([10], ["a", "b"], {"a": "", "b": ""})
    info = ReleaseInfo(family="digits", version=3, plan_sha256=plan.digest, cuts=(10,))
    check_fits(info, plan, {plan.digest})
    with pytest.raises(PlanError, match="for the plan"):
        check_fits(info, plan, {Digest("1" * 64)})
    with pytest.raises(PlanError, match=r"cuts \[10\]"):
        check_fits(info, REFERENCE.chain([12], ["a", "b"], {"a": "", "b": ""})[0], {plan.digest})
