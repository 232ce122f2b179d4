# Every target does its own set-up (.ci/setup) and is quick the second time.
# PG_CONFIG=/path/to/pg_config chooses the server; `make test` then tests on that one alone.
# PG14_CONFIG, PG16_CONFIG and PG17_CONFIG do so for `make check-versions`, which fetches what they do not name.
# BENCH_ARGS are those of the program in tests/bench: make bench BENCH_ARGS='--quick'

export PG_CONFIG PG14_CONFIG PG16_CONFIG PG17_CONFIG BENCH_ARGS

.DEFAULT_GOAL := help
.PHONY: help test demo demo-stop install installcheck package bench bench-read bench-replay fmt lint check-versions clean

help:
	@echo 'make demo          run pgbench under capture, corrupt it, find out who did it; leaves the server running'
	@echo 'make demo-stop     end that server'
	@echo 'make test          all tests, on PostgreSQL 15 and 18'
	@echo 'make install       build and install into the server of PG_CONFIG'
	@echo 'make installcheck  SQL tests against a running server (PGHOST, PGPORT, PGUSER) that has it installed'
	@echo 'make package       a tree ready to copy and a Debian package, in target/package'
	@echo 'make bench         what capture costs, beside no trigger and the other systems of its kind'
	@echo 'make bench-read    what questions about the past cost, in ten million changes'
	@echo 'make bench-replay  what replay under invariants costs, beside folds written by hand, over a million changes'
	@echo 'make fmt           format the Rust sources'
	@echo 'make lint          formatting and clippy, warnings are errors'
	@echo 'make check-versions  compile for PostgreSQL 14, 16 and 17, and run the SQL tests there'
	@echo 'make clean         stop the servers started here and remove target'

test:
	@tests/tools/run-tests

demo:
	@tests/demo/run

demo-stop:
	@tests/tools/cluster destroy demo && echo 'the demonstration server is gone'

install:
	@.ci/build install

installcheck:
	@tests/tools/installcheck

package:
	@.ci/build package

bench:
	@.ci/build bench

bench-read:
	@.ci/build bench-read

bench-replay:
	@.ci/build bench-replay

fmt:
	@cargo fmt

lint:
	@.ci/build lint

check-versions:
	@.ci/build check-versions

clean:
	@.ci/build clean
