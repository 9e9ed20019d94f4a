"""Composing one block of a weight, in the fastest way that its numbers and its method allow."""
