"""evalkit: an evaluation harness for Vision-Language-Action robot policies."""
