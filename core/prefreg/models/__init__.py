"""A loaded model: log-probabilities, generation, replies."""
