"""A drafter learns while the robot acts; and what this shares with training: lesson and verdict."""
