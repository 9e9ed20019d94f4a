"""LoRA adapters as PEFT keeps them: read into factors, and factors written as one of them."""

from prefreg.vectors.adapters.layers import LinearLayer, linear_layers
from prefreg.vectors.adapters.reading import Adapter, read_adapter

__all__ = ["Adapter", "LinearLayer", "linear_layers", "read_adapter"]
