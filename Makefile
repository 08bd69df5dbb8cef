# Everything a clone needs: `make demo` and `make test` set up .venv first, the second time in
# seconds. PYTHON=python3.12 chooses the interpreter.
.PHONY: help setup demo test soak fuzz gpu lint clean
.DEFAULT_GOAL := help

PY := .venv/bin/python
# A few small matrices: more threads than cores, or one pool per process, only get in each other's way
export OMP_NUM_THREADS ?= $(shell nproc)
export MUJOCO_GL ?= osmesa
MINUTES ?= 30
OBSERVATIONS ?= 1000000

help:  ## say what there is to make
	@sed -n 's/^\([a-z]*\):[^#]*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup:  ## make .venv, install the dependencies, build the messages, fetch the LIBERO assets
	@scripts/setup.sh

demo: setup  ## play LIBERO over ROS 2 with the embedded checkpoint; results under runs/
	@$(PY) -m specvla_ros demo

# The nodes under test share the cores with each other: see docs/on_a_robot.md, "Without a GPU"
test: export OMP_NUM_THREADS := 1
# Side by side in as many processes as there are cores, at most 4 (1 GB each); then those that talk
# over DDS or look at the clock, one by one: see test/conftest.py
test: setup lint  ## run all tests, in ROS 2 isolated from the network
	@$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

soak: setup  ## run the policy for MINUTES=30 while others are killed; memory must stay flat
	@SPECVLA_SOAK_MINUTES=$(MINUTES) $(PY) -m pytest -s -m soak test/nodes/policy_node/test_soak.py

fuzz: setup  ## run OBSERVATIONS=1000000 made-up ones through the node's logic; none does harm
	@SPECVLA_FUZZ=$(OBSERVATIONS) $(PY) -m pytest -s test/nodes/policy_node/test_fuzz.py

gpu: setup  ## on a CUDA GPU: its tests, and what it does with a 7B (random weights, 16 GB)
	@$(PY) -m pytest test/decoding/test_cuda.py
	@$(PY) -m specvla_ros bench --random-weights --shape 7b --device cuda \
		--accept-from libero_goal --peer generate --peer generate-sdpa --observations 20

lint: setup  ## check style with ruff and types with mypy
	@.venv/bin/ruff check .
	@.venv/bin/mypy

clean:  ## delete .venv and what was built; assets and runs stay
	rm -rf .venv build dist specvla_ros.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
