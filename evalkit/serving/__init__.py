"""The openpi WebSocket protocol, both ends."""
