"""Methods that change the gradients where the representation forks into heads, one per file."""
