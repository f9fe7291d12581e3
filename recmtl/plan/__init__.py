"""What a training of given sizes needs, by formulas."""
