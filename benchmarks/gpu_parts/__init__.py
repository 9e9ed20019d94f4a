"""The parts of `gpu.py`, a module each, run by its `measure`; `inputs` makes what they need."""
