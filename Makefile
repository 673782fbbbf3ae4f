# Short names for `cargo xtask`; `make demo` and `make test` need nothing done before them.
.PHONY: demo up bench test lint fmt tidy prepare openapi bless release

LOG ?= embedded

demo:            ## Bill a real trace through a crash (LOG=kafka: on a real Kafka, roles apart)
	@deploy/dev/setup.sh rust
	@cargo xtask demo --log $(LOG) $(ARGS)

up:              ## Run weir on the embedded default (ARGS="--data DIR …")
	@deploy/dev/setup.sh rust
	@cargo xtask up $(ARGS)

bench:           ## What Weir costs, against its budgets; writes docs/performance.md's table
	@deploy/dev/setup.sh base
	@cargo build --release -p weir -p weir-loadtest
	@target/release/loadtest bench $(ARGS)

test:            ## Format, tidy, clippy, all tests
	@deploy/dev/setup.sh rust
	@cargo xtask test $(ARGS)

lint fmt tidy prepare openapi bless:
	@cargo xtask $@

release:         ## An optimised binary: target/release/weir
	@deploy/dev/setup.sh base
	@cargo build --release --bin weir
