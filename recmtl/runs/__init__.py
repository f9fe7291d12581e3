"""Run folders on disk: metrics, checkpoints, logs."""
