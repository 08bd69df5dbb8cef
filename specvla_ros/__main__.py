"""`python -m specvla_ros` is the `specvla` command."""
import sys

from specvla_ros.cli import main

sys.exit(main())
