"""jssl: self-supervised learning in JAX; one small engine, one file per paper."""

__version__ = "0.1.0"
