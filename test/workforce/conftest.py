"""Worker processes import the fake players by name, as in test/benchmark."""
from pathlib import Path
import sys

sys.path.append(str(Path(__file__).parents[1] / 'benchmark'))
