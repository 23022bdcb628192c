"""Paper recipes: one file per method, `get_config(variant)`."""
