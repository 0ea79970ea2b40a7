import pytest

from collab.errors import UsageError
from collab.toolchain.compress.recipe import DEFAULT_RECIPES, TECHNIQUES, Recipe, parse


@pytest.mark.parametrize("text", DEFAULT_RECIPES)
def test_a_recipe_reads_back_as_it_is_written(text):
    assert parse(str(parse(text))) == parse(text)


def test_a_first_setting_needs_no_name_and_the_others_do():
    (step,) = parse("structured:0.3,by=scale,epochs=0.5").steps
    assert dict(step.settings) == {"share": 0.3, "by": "scale", "epochs": 0.5, "rate": 1e-3}


def test_the_baseline_is_the_recipe_without_steps():
    assert parse("baseline") == Recipe(())
    assert str(Recipe(())) == "baseline"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("int9", "did you mean int8"),
        ("structred:0.5", "did you mean structured"),
        ("zzz", "use one of"),
        ("", "there is no technique"),
        ("prune:2", "share goes from 0 to 0.99"),
        ("prune:nan", "share goes from"),
        ("prune:half", "is no number"),
        ("structured:0.5,by=l3", "one of l1, scale, activation"),
        ("structured:0.5,epoch=1", "did you mean epochs"),
        ("structured:0.5,0.6", "say which setting"),
        ("fp16:1", "say which setting"),
        ("int8 -> qat", "int8 makes a .tflite"),
        ("qat -> int8", "qat ends with int8"),
        ("prune -> finetune", "training in finetune would undo prune"),
        ("cluster -> distil -> int8", "training in distil would undo cluster"),
        (" -> ".join(["finetune"] * 9), "9 steps, over 8"),
        ("x" * 501, "over 500"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(text, said):
    with pytest.raises(UsageError, match=said):
        parse(text)


def test_clustering_behind_pruning_keeps_the_zeros_and_is_allowed():
    assert len(parse("prune:0.5 -> cluster:16 -> int8").steps) == 3


def test_less_effort_shortens_trainings_and_nothing_else():
    recipe = parse("structured:0.5,epochs=2 -> int8")
    assert recipe.at_effort(0.25).epochs == 0.5
    assert recipe.at_effort(0.25).steps[1] == recipe.steps[1]


def test_only_fresh_weights_make_a_student():
    assert parse("distil:0.5").has_student
    assert parse("distil:1,depth=0.5").has_student
    assert not parse("structured:0.5 -> distil").has_student


def test_every_default_keeps_within_its_bounds():
    for technique in TECHNIQUES.values():
        for setting in technique.settings.values():
            if isinstance(setting.default, str):
                assert setting.default in setting.words
            else:
                assert setting.low <= setting.default <= setting.high
