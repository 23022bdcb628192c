"""Protocols over frozen features: k-NN, linear probes, few labels per class. Nothing here sees an encoder."""
