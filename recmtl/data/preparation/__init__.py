"""Fit a schema on the training rows, and encode all rows by it."""
