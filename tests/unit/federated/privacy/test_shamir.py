"""Secrets in shares."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.errors import ProtocolError
from collab.federated.privacy import shamir


def share(number: int) -> bytes:
    return number.to_bytes(shamir.SHARE_BYTES, "big")


def test_a_published_example_comes_out():
    # 1234 + 166 x + 94 x^2, the example of the Wikipedia article; no value reaches the prime.
    shares = {2: 1942, 4: 3402, 5: 4414}
    assert int.from_bytes(shamir.restore({x: share(y) for x, y in shares.items()}), "big") == 1234


def test_shares_are_the_values_of_a_polynomial_whose_constant_is_the_secret():
    drawn = iter([166, 94])
    shares = shamir.split(share(1234)[1:], 3, range(1, 7), lambda count: next(drawn).to_bytes(count, "big"))
    assert [int.from_bytes(shares[x], "big") for x in range(1, 7)] == [1494, 1942, 2578, 3402, 4414, 5614]


def test_the_modulus_is_the_first_prime_with_room_for_every_secret():
    def probably_prime(n: int) -> bool:
        odd, twos = n - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
            x = pow(base, odd, n)
            if x not in (1, n - 1) and not any(pow(x, 2**k, n) == n - 1 for k in range(1, twos)):
                return False
        return True

    assert probably_prime(shamir.PRIME)
    assert not any(probably_prime(n) for n in range(1 << 256, shamir.PRIME))


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(1, 9),
    st.integers(0, 6),
    st.randoms(use_true_random=False),
)
def test_any_threshold_of_shares_restores_the_secret(secret, threshold, spare, chance):
    places = chance.sample(range(1, 600), threshold + spare)
    shares = shamir.split(secret, threshold, places, chance.randbytes)
    chosen = chance.sample(places, threshold)
    assert shamir.restore({place: shares[place] for place in chosen}) == secret


def test_one_share_less_fits_every_secret():
    shares = shamir.split(bytes(32), 3, (1, 2, 3), random.Random(1).randbytes)
    two = {1: shares[1], 2: shares[2]}
    for number in (0, 1, 7**80):
        # A third share exists for each secret, so two of them exclude none.
        weights = shamir._weights((0, 1, 2), 3)
        numbers = (number, *(int.from_bytes(two[x], "big") for x in (1, 2)))
        third = sum(w * n for w, n in zip(weights, numbers, strict=True)) % shamir.PRIME
        assert int.from_bytes(shamir.restore({**two, 3: share(third)}), "big") == number


def test_wrong_shares_are_found_and_their_places_named():
    secret, places = random.Random(2).randbytes(32), range(1, 11)
    shares = shamir.split(secret, 6, places, random.Random(3).randbytes)
    shares[1], shares[10] = shares[2], share(5)
    found = shamir.recover(shares, 6, lambda value: value == secret)
    assert found == (secret, {1, 10})


def test_too_few_and_too_many_wrong_shares_are_refused():
    shares = shamir.split(bytes(32), 3, (1, 2, 3, 4), random.Random(4).randbytes)
    with pytest.raises(ProtocolError, match="2 came, 3 are needed"):
        shamir.recover({1: shares[1], 2: shares[2]}, 3, lambda value: True)
    with pytest.raises(ProtocolError, match="no 3 of 4"):
        shamir.recover({**shares, 1: share(1), 2: share(2)}, 3, lambda value: value == bytes(32))
    with pytest.raises(ProtocolError, match="out of range"):
        shamir.restore({1: b"\xff" * shamir.SHARE_BYTES})


@pytest.mark.parametrize(("threshold", "places"), [(0, (1,)), (3, (1, 2)), (1, (0, 1)), (2, (1, 1))])
def test_places_that_would_give_the_secret_away_are_not_taken(threshold, places):
    with pytest.raises(ValueError, match="places"):
        shamir.split(bytes(32), threshold, places, random.Random(5).randbytes)
