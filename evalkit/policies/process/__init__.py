"""Policies in a process of their own, in the Python environment of their family.

family     a family of policies on this machine: ``family.yaml``, its environment
messages   the messages between evalkit and the policy's process
host       evalkit's side: a policy whose code runs elsewhere
child      the process itself, in the family's environment
"""
