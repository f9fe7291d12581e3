"""Side-by-side measurements; their last results lie under results/."""
