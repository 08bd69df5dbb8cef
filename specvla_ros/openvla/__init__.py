"""The target: what an OpenVLA checkpoint is and what it computes."""
