import pytest
from hypothesis import given
from hypothesis import strategies as st

from fra.transfer.subsets import draw_subset, subset_hash


@given(count=st.integers(1, 400), small=st.floats(0.001, 1), large=st.floats(0.001, 1), seed=st.integers(0, 9))
def test_a_smaller_fraction_lies_inside_a_larger_one(count, small, large, seed) -> None:
    small, large = sorted((small, large))
    inside = draw_subset(count, fraction=small, seed=seed).tolist()
    around = draw_subset(count, fraction=large, seed=seed).tolist()
    assert set(inside) <= set(around) <= set(range(count))
    assert inside == sorted(set(inside))


@pytest.mark.parametrize(
    "count, fraction, size",
    [(283_901, 0.01, 2_839), (162_770, 0.02, 3_255), (100, 0.29, 29), (50, 0.01, 1), (7, 1.0, 7)],
)
def test_the_size_is_the_exact_floor_and_at_least_one(count, fraction, size) -> None:
    assert len(draw_subset(count, fraction=fraction, seed=0)) == size


def test_another_seed_draws_other_images_and_the_same_seed_the_same() -> None:
    first, again, other = (draw_subset(1000, fraction=0.1, seed=seed).tolist() for seed in (0, 0, 1))
    assert first == again
    # Two independent tenths share about 10 of 100 images.
    assert len(set(first) & set(other)) < 30


def test_the_draw_is_the_same_on_every_machine_for_ever() -> None:
    assert draw_subset(20, fraction=0.2, seed=0).tolist() == [4, 10, 14, 16]


def test_every_image_is_about_equally_likely() -> None:
    # 400 draws of a tenth: each of 50 images is expected 40 times, standard deviation 6
    drawn = [0] * 50
    for seed in range(400):
        for position in draw_subset(50, fraction=0.1, seed=seed).tolist():
            drawn[position] += 1
    assert min(drawn) > 15
    assert max(drawn) < 65


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5])
def test_an_impossible_fraction_is_refused(fraction) -> None:
    with pytest.raises(ValueError, match="give a share above 0 and at most 1"):
        draw_subset(10, fraction=fraction, seed=0)


def test_the_hash_changes_with_any_file() -> None:
    assert subset_hash(["a.jpg", "b.jpg"]) == subset_hash(["a.jpg", "b.jpg"])
    assert subset_hash(["a.jpg", "b.jpg"]) != subset_hash(["a.jpg", "c.jpg"])
