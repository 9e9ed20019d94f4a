"""From rows to preference pairs, and from pairs to tokens."""
