"""Leaves out the comparison with a published package where that is not installed."""

from importlib.util import find_spec

PACKAGES = {
    "test_published_rotograd.py": ("rotograd", "geotorch"),
    "test_published_torchjd.py": ("torchjd", "cvxpy", "ecos", "quadprog", "qpsolvers"),
}
collect_ignore = [test for test, needed in PACKAGES.items() if not all(map(find_spec, needed))]
