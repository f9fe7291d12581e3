"""A card whose tables are large enough to be spread over processes."""

LARGE_CARD = """
features:
  - {categorical: categorical_1, hash_buckets: 70000, width: 16}
  - {categorical: categorical_2, width: 4}
  - {numeric: numerical_1}
tasks: [{name: ctr, label: click}, {name: ctcvr, label: conversion}]
funnel: [click, conversion]
keys: [search_id]
"""
