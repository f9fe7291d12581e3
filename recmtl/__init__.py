"""Multitask ranking for CTR/CVR data."""
