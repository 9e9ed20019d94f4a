"""Answer log-probabilities, and what a trained pole changed in them."""
