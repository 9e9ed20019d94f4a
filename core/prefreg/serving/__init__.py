"""A model that stays loaded and answers many at once, each with dials of its own."""
