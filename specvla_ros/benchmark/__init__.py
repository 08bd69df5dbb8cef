"""The commands that measure: evaluation in LIBERO, demo, bench, replay; reports, plots, videos."""
