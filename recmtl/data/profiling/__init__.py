"""Describe raw files and prepared datasets; find leaks."""
