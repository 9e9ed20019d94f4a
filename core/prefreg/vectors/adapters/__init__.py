"""LoRA adapters as PEFT keeps them: read into factors, and factors written as one of them."""

from prefreg.vectors.adapters.adapter_config import LinearLayer, linear_layers
from prefreg.vectors.adapters.adapter_files import Adapter, read_adapter

__all__ = ["Adapter", "LinearLayer", "linear_layers", "read_adapter"]
