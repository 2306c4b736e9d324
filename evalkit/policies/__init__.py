"""Policies that ship with evalkit."""
