"""Linear interpolation by a table of cells: the same bits as `np.interp`."""

import numpy as np
import pytest

from recmtl.data.columns.interpolation import CELLS, Cells, Interpolation, interpolation

POINTS = {
    "spread": lambda rng, n: np.sort(rng.normal(size=n)),
    "skewed": lambda rng, n: np.sort(rng.lognormal(0, 3, n)),
    "equal": lambda rng, n: np.sort(rng.integers(-3, 4, n).astype(float)),
    "denormal": lambda rng, n: np.sort(rng.random(n) * 1e-310),
    "huge": lambda rng, n: np.sort(rng.uniform(-1.7, 1.7, n) * 1e308),
}


@pytest.mark.parametrize("kind", POINTS)
def test_equals_numpy_bit_for_bit(kind):
    rng = np.random.default_rng(0)
    for size in rng.integers(1, 130, 60):
        points = POINTS[kind](rng, size)
        values = np.linspace(-1, 1, size)
        near = [points, np.nextafter(points, np.inf), np.nextafter(points, -np.inf)]
        inside = rng.choice(points, 50) * 0.5 + rng.choice(points, 50) * 0.5
        numbers = np.concatenate([*near, inside, rng.normal(size=50), [0.0, -0.0, 1e300, -1e300]])
        with np.errstate(all="ignore"):
            expected = np.clip(np.interp(numbers, points, values), -1, 1)  # points may be a denormal apart
        found = np.clip(Interpolation(points, values)(numbers), -1, 1)
        np.testing.assert_array_equal(found.view(np.int64), expected.view(np.int64))


def test_maps_points_to_equal_steps():
    assert interpolation((0.0, 1.0, 4.0), -1.0, 1.0)(np.array([-5, 0, 0.5, 1, 2.5, 4, 9])).tolist() == [
        *(-1, -1, -0.5, 0, 0.5, 1, 1)
    ]
    assert interpolation((3.0,), -1.0, 1.0)(np.array([1.0, 3.0])).tolist() == [0, 0]


def test_the_numbers_are_left_as_they_are():
    numbers = np.array([1.0, 2.0])
    interpolation((0.0, 1.0, 4.0), 0.0, 1.0)(numbers)
    assert numbers.tolist() == [1, 2]


@pytest.mark.parametrize("kind", ["spread", "skewed"])
def test_few_points_share_a_cell(kind):
    """Points of skewed numbers crowd where those of equal cells hold nearly all of them."""
    points = POINTS[kind](np.random.default_rng(0), 129)
    assert Cells.of(points).most <= 4
    assert (Cells(points, np.ptp(points)).most > 20) == (kind == "skewed")
    places = Cells.of(points)(points)
    assert (places[0], places[-1] < CELLS) == (0, True)
    assert (np.diff(places) >= 0).all()
