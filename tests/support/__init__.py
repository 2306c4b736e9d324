"""What tests of several rooms share. No test imports from a test."""
