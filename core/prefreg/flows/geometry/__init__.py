"""What the dials of stored vectors do to each other, to the model, and how far they may go."""
