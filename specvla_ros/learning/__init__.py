"""A drafter learns while the robot acts; lesson and verdict are those of training."""
