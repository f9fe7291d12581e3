"""Methods that weight the losses, one per file."""
