"""Runs with a conclusion: gate, sweep, bench, evaluate, and the accepted baselines."""
