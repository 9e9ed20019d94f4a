"""How vectors lie to each other: in the weights, and in what the model says."""
