"""A suite on this machine: its Python environment, assets and upstream sources."""
