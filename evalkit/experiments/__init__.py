"""Run, then conclude: gate, sweep, bench, evaluate, and the accepted baselines."""
