# make demo   train on real photographs, leave a table and two pictures in runs/restoration/
# make test   lint, type check, doctests and tests, in as many processes as there are cores; ARGS="-n 0" in one
# make test-oldest, make test-newest   the tests of the package alone, with the oldest torch and torchjd that it supports, and
#             with the newest of everything; each in an environment of its own, of several GB
# make zoo    wrapped against unwrapped for every optimizer of four packages: a table, runs/zoo/results.json
# make toy    two objectives, five starts, every weighting: a table and a picture of the descents in runs/toy/
# make compare   problems x methods x seeds, tuned: pages and pictures in runs/compare/, in hours; QUICK=1 in minutes
# make photos   14 photographs, 32 megapixels, from two Debian packages (27 MB, nothing is installed): runs/photographs/
# make bench   what the wrapper costs a step: tables and a picture in runs/overhead/; QUICK=1: 7 and 40 tasks, briefly
# Each makes .venv and installs what it needs. ARGS="..." goes to the demo, to toy, to compare, to bench or to pytest.

PYTHON ?= python3
BIN := .venv/bin

# What runs without the demo, the examples, the benchmarks and the frameworks.
CORE := art_optim tests $(addprefix --ignore=tests/, compare frameworks problems restoration zoo distributed/test_examples.py \
	$(addprefix test_, $(addsuffix .py, documentation examples methods overhead restoration_example scaling toy typing)))

WALLPAPERS := lomiri-wallpapers-16.04 lomiri-wallpapers-20.04
UNPACKED := runs/photographs/debian

.PHONY: demo test test-oldest test-newest lint zoo toy compare photos bench

demo: .venv/.demo
	$(BIN)/python -m examples.restoration $(ARGS)

test: lint
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

test-oldest test-newest: test-%: .venv-%/.core
	.venv-$*/bin/python -m pytest -n auto --dist worksteal $(CORE) $(ARGS)

zoo: .venv/.zoo
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.zoo

toy: .venv/.benchmarks
	$(BIN)/python -m benchmarks.toy $(ARGS)

compare: .venv/.benchmarks
	$(BIN)/python -m benchmarks.compare $(if $(QUICK),--quick) $(ARGS)

photos: .venv/.demo
	@command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || { echo "make photos needs apt-get and dpkg-deb," \
		"of Debian or Ubuntu: elsewhere give the commands any folder of photographs in place of runs/photographs" >&2; exit 1; }
	mkdir -p $(UNPACKED)
	cd $(UNPACKED) && apt-get download $(WALLPAPERS) || { echo "run 'apt-get update' as root first" >&2; exit 1; }
	for package in $(UNPACKED)/*.deb; do dpkg-deb -x $$package $(UNPACKED) || exit 1; done
	$(BIN)/python -m benchmarks.restoration photos --unpacked $(UNPACKED) --output runs/photographs

bench: .venv/.benchmarks
	$(BIN)/python -m benchmarks.overhead $(if $(QUICK),--quick) $(ARGS)

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/.%: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$*]'
	touch $@

.venv-oldest/.core: VERSIONS := 'torch==2.6.0' 'torchjd==0.14.0'
.venv-newest/.core: VERSIONS := --upgrade --upgrade-strategy eager
.venv-%/.core: setup.cfg Makefile
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet -e '.[core]' $(VERSIONS)
	touch $@
