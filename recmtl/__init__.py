"""Multitask ranking for CTR and CVR data: encoders, models and exact gradient balancing, from files to an AUC table."""

import lazy_loader

from recmtl._version import __version__ as __version__
from recmtl.io.machine import set_openmp_defaults as _set_openmp_defaults

_set_openmp_defaults()  # before torch is loaded, which is when OpenMP reads them

# What is public stands in `__init__.pyi`; a name is loaded when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
