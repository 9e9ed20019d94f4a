"""Training the ± pair of an axis."""
