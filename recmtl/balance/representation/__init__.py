"""Balancers of the gradients where the representation forks into the heads."""
