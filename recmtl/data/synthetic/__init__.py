"""Generated rows with a known Bayes AUC."""
