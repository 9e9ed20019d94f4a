"""Measure what a composition does: sampled answers, rates with intervals, curves."""
