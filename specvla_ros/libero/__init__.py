"""The simulator: LIBERO's suites, tasks and scenes in robosuite, and scripted experts."""
