"""Faults that evalkit must hold against, a module per class: each makes trials, in any number, from a seed."""
