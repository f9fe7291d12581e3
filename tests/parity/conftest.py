"""Leaves out the comparison with the published package where that is not installed."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("rotograd") and find_spec("geotorch") else ["test_published_rotograd.py"]
