"""Both ends of the openpi WebSocket protocol."""
