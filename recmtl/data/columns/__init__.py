"""Columns of raw values to ids and numbers."""
