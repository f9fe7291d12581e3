"""Multitask ranking for CTR and CVR data: encoders, models and exact gradient balancing, from files to an AUC table."""

import lazy_loader

from recmtl._version import __version__ as __version__

# What is public stands in `__init__.pyi`; a name is loaded when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
