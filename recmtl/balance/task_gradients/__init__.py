"""Balancers of the tasks' gradients on the shared tensors."""
