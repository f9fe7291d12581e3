"""Methods that combine the tasks' gradients of the shared tensors, one per file."""
