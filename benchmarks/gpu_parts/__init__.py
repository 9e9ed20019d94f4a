"""The parts of `gpu.py`, a module each with one function, `measure`; `inputs` makes what they need."""
