import pytest

from collab.toolchain.compress.frontier import Targets
from collab.toolchain.compress.recipe import parse
from collab.toolchain.compress.search import Halving
from tests.unit.toolchain.compress.test_frontier import measured

RECIPES = [parse(text) for text in ("int8", "qat", "prune:0.5", "prune:0.9", "merge:0.5", "structured:0.5")]


def results(trials, size):
    return {str(t.recipe): measured(str(t.recipe), zstd=size(str(t.recipe))) for t in trials}


def test_all_are_tried_with_little_training_and_the_better_half_with_more():
    halving = Halving(RECIPES, Targets())
    first = halving.trials()
    assert {t.effort for t in first if t.recipe.epochs} == {0.25}
    halving.tell(results(first, lambda text: len(text)))
    second = halving.trials()
    assert [str(t.recipe) for t in second] == ["qat", "merge:0.5", "prune:0.5"]
    assert {t.effort for t in second} == {0.5}
    halving.tell(results(second, len))
    third = halving.trials()
    assert [(str(t.recipe), t.effort) for t in third] == [("qat", 1.0), ("merge:0.5", 1.0)]
    halving.tell(results(third, len))
    assert halving.done
    assert halving.trials() == ()


def test_recipes_that_train_nothing_are_tried_once_in_full():
    halving = Halving(RECIPES, Targets())
    assert [t.effort for t in halving.trials() if str(t.recipe) == "int8"] == [1.0]
    halving.tell(results(halving.trials(), len))
    assert "int8" not in [str(t.recipe) for t in halving.trials()]


def test_a_recipe_without_a_result_is_left_out():
    halving = Halving(RECIPES, Targets())
    kept = [t for t in halving.trials() if str(t.recipe) != "qat"]
    halving.tell(results(kept, len))
    assert "qat" not in [str(t.recipe) for t in halving.trials()]


def test_a_search_of_which_nothing_is_left_ends():
    halving = Halving(RECIPES, Targets())
    halving.tell({})
    assert halving.done


def test_the_same_recipe_twice_is_one():
    assert len(Halving([parse("qat"), parse("qat:1")], Targets()).trials()) == 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_at_least_one_goes_on(count):
    halving = Halving(RECIPES[1 : 1 + count], Targets())
    for _ in range(3):
        assert halving.trials()
        halving.tell(results(halving.trials(), len))
    assert halving.done
