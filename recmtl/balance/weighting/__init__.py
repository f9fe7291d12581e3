"""Balancers that weigh the losses."""
