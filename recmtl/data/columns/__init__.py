"""Conversion of raw columns to ids and numbers."""
