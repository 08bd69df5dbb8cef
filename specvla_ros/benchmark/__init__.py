"""What the figures come from: LIBERO evaluation, the demo, reports, plots, videos, doctor."""
