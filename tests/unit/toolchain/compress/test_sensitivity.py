from collab.toolchain.compress.sensitivity import mix

COSTS = {"a": 0.01, "b": 0.3, "c": 0.0, "d": 0.1}


def loss(in_float):
    return 1.0 + sum(cost for name, cost in COSTS.items() if name not in in_float)


def test_the_worst_operators_stay_in_float_until_the_loss_is_near_enough():
    found = mix(list(COSTS), loss, 1.0, 0.05)
    assert found.in_float == ("b", "d")
    assert found.loss <= 1.05
    assert [name for name, _ in found.sensitivity] == ["b", "d", "a", "c"]


def test_nothing_is_asked_of_operators_where_rounding_costs_nothing():
    asked = []

    def watched(in_float):
        asked.append(in_float)
        return loss(in_float)

    assert mix(list(COSTS), watched, 1.0, 1.0).in_float == ()
    assert asked == [frozenset()]


def test_operators_that_gain_nothing_are_rounded_though_the_loss_is_too_large():
    assert mix(["c"], loss, 0.0, 0.0).in_float == ()


def test_an_operator_that_makes_things_worse_in_company_is_rounded():
    def odd(in_float):
        return 2.0 + ("a" in in_float and "b" in in_float) - loss(frozenset()) + loss(in_float)

    assert mix(["a", "b"], odd, 0.0, 0.0).in_float == ("b",)
