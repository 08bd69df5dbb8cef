"""Many jobs, done by several workers: threads, processes of this machine, or a Ray cluster."""
