"""Scripted experts: skills chosen by a task's own goal predicates and the simulator's state."""
