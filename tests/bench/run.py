#!/usr/bin/env python3
"""What capture costs, beside no trigger and the other systems of its kind, interleaved in one run.

Every system has its own database with the same tables (sql/tables.sql), made afresh from a template for every round, so
that rounds are alike: empty logs, sequences at their start. In a round each workload runs on all systems, one after
the other, in an order that turns with the round; figures are medians over rounds. The workloads are in workloads.py,
large_log.py and memory.py, the systems in systems.py; what has to be fetched goes below target/bench, and a system
that cannot be had is listed as skipped, with the reason. Only differences and ratios within one run mean anything.

Needs a server of its own (PGHOST, PGPORT, PGUSER a superuser, PGBIN, PG_CONFIG) whose settings it changes: `make bench`
makes one. Prints Markdown, or writes it to --out FILE with the samples beside it as FILE's name in .json.
Exits 1 when a change was not recorded. It is no test: it judges targets, and a noisy machine may miss them.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path

import large_log
import memory
import report
from server import HERE, PREFIX, Failed, about_machine, configure, create_database, drop_databases, pgbench_tables, psql, restart
from systems import SYSTEMS
from workloads import WORKLOADS, Place, check, records_causes

PARTS = ("rounds", "memory", "large-log")
QUICK = {
    "rows": 1000, "count": 200, "rounds": 1, "seconds": 0, "scale": 1, "toast_rows": 20, "memory_rows": 20_000, "leak_statements": 3000, "large_factor": 2,
}

# Nothing in the background but what a system starts itself; a checkpoint only where one is asked for.
SETTINGS = {"autovacuum": "off", "checkpoint_timeout": "1h", "max_wal_size": "16GB", "jit": "off"}


class Run:
    """What one run found."""

    def __init__(self, options):
        self.options = options
        self.systems = []
        self.samples = {}  # {(workload, table, statement): {system: [sample, …]}}
        self.skipped = {}  # {system: reason}
        self.failed = {}  # {(workload, system): reason}
        self.wrong = []
        self.log_sizes = {}
        self.memory = {}
        self.leak = {}
        self.causes_recorded = False

    def add(self, workload, table, statement, system, sample):
        self.samples.setdefault((workload, table, statement), {}).setdefault(system, []).append(sample)

    def turned(self, round_number):
        start = round_number % len(self.systems)
        return self.systems[start:] + self.systems[:start]

    def place(self, system, folder, round_number):
        return Place(f"{PREFIX}{system.name}", system, self.options, folder, 1000 + round_number)


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def template(system):
    return f"{PREFIX}template_{system.name}"


def make_templates(run):
    drop_databases()
    base = f"{PREFIX}tables"
    create_database(base)
    pgbench_tables(base, run.options.scale)
    psql((HERE / "sql/tables.sql").read_text(), base, "-v", f"toast_rows={run.options.toast_rows}")
    psql("VACUUM FREEZE ANALYZE", base)
    say("tables made")
    for system in SYSTEMS:
        if run.options.systems and system.name not in run.options.systems and system.kind != "none":
            continue
        create_database(template(system), base)
        try:
            if system.setup:
                system.setup(template(system))
            run.systems.append(system)
        except Failed as failure:
            if system.name == "ours":
                raise
            run.skipped[system.name] = str(failure)
            say(f"{system.name} is skipped: {failure}")


def fresh(system):
    create_database(f"{PREFIX}{system.name}", template(system))


def workload_on(run, workload, place):
    """Runs it once; a peer that fails is left out of it from then on."""
    system = place.system.name
    if (workload, system) in run.failed:
        return
    try:
        for table, statement, sample in WORKLOADS[workload](place):
            run.add(workload, table, statement, system, sample)
    except Failed as failure:
        if place.system.kind != "peer":
            raise
        run.failed[workload, system] = str(failure)
        place.broken = True
        say(f"{system} fails in {workload}: {failure}")


def run_rounds(run, folder):
    for round_number in range(run.options.rounds):
        places = []
        for system in run.turned(round_number):
            fresh(system)
            places.append(run.place(system, folder, round_number))
        for workload in run.options.workloads or WORKLOADS:
            for place in places:
                workload_on(run, workload, place)
            say(f"round {round_number + 1} of {run.options.rounds}: {workload} done")
        for place in places:
            # A workload that failed in the middle leaves changes uncounted.
            if not place.broken:
                run.wrong += check(place)
            if place.system.name == "ours" and "cause" in (run.options.workloads or WORKLOADS):
                run.causes_recorded = records_causes(place.database)


def run_memory(run, folder):
    for system in run.systems:
        if system.kind == "peer":
            continue
        fresh(system)
        place = run.place(system, folder, 0)
        try:
            run.leak[system.name] = memory.many_statements(place)
            if system.kind != "none":
                run.memory[system.name] = memory.large_statement(place)
        except Failed as failure:
            run.failed["memory", system.name] = str(failure)
        # Its log is the largest of all.
        psql(f'DROP DATABASE "{place.database}"')
    say("memory done")


def run_large_log(run, folder):
    places = []
    for system in run.systems:
        fresh(system)
        place = run.place(system, folder, 0)
        rows, size = large_log.preload(place)
        run.log_sizes[system.name] = size
        places.append(place)
        say(f"{system.name}: log of {size / 2**20:.0f} MB preloaded with {rows} rows of each table")
    for round_number in range(run.options.rounds):
        start = round_number % len(places)
        for place in places[start:] + places[:start]:
            for table, statement, sample in large_log.run(place, round_number):
                run.add("large log", table, statement, place.system.name, sample)
    say("large log done")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="rows of a bulk statement")
    parser.add_argument("--count", type=int, default=20_000, help="one-row transactions of a run (a fifth with synchronous_commit)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="length of a run with 8 clients; 0: --count transactions")
    parser.add_argument("--scale", type=int, default=10, help="pgbench's scale factor for TPC-B")
    parser.add_argument("--toast-rows", type=int, default=200, help="rows with a text of 48 KB")
    parser.add_argument("--memory-rows", type=int, default=1_000_000, help="rows of the statement whose memory is measured")
    parser.add_argument("--leak-statements", type=int, default=100_000, help="statements of the session that is watched for leaks")
    parser.add_argument("--large-factor", type=int, default=4, help="size of the large log in shared_buffers")
    parser.add_argument("--systems", type=lambda text: text.split(","), help="only these, and none: " + ",".join(s.name for s in SYSTEMS))
    parser.add_argument("--parts", type=lambda text: text.split(","), default=PARTS, help="only these: " + ",".join(PARTS))
    # Make splits its arguments at blanks, and names have commas in them.
    typed = {re.sub("[, ]+", "-", name): name for name in WORKLOADS}
    parser.add_argument("--workloads", type=lambda text: [typed.get(part, part) for part in text.split(",")], help="only these of the rounds: " + ",".join(typed))
    parser.add_argument("--cluster", help="the server is this cluster of tests/tools/cluster, to be restarted for its settings")
    parser.add_argument("--out", type=Path, help="file for the Markdown; the samples go beside it as .json")
    parser.add_argument("--quick", action="store_true", help="everything tiny, to check this program: the figures mean nothing")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    unknown = set(options.systems or ()) - {s.name for s in SYSTEMS} | set(options.workloads or ()) - set(WORKLOADS) | set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return options


def measure(run):
    options = run.options
    configure(**SETTINGS)
    if options.cluster:
        buffers = min(1024, max(128, about_machine()[1] // 4))
        restart(options.cluster, wal_level="replica", shared_buffers=f"{buffers}MB")
    make_templates(run)
    run.server = report.describe_server()
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        if "rounds" in options.parts:
            run_rounds(run, Path(name))
        if "memory" in options.parts:
            run_memory(run, Path(name))
        if "large-log" in options.parts:
            if options.cluster:
                restart(options.cluster, shared_buffers="4MB" if options.quick else "64MB")
            run_large_log(run, Path(name))
    drop_databases()


def main():
    options = parse()
    run = Run(options)
    try:
        try:
            measure(run)
        finally:
            configure(**dict.fromkeys([*SETTINGS, "full_page_writes", "wal_level", "shared_buffers"]))
    except Failed as failure:
        sys.exit(f"the benchmark stops: {failure}")
    text = report.markdown(run)
    if options.out:
        options.out.write_text(text)
        options.out.with_suffix(".json").write_text(json.dumps(report.machine(run), indent=1) + "\n")
        say(f"written: {options.out} and {options.out.with_suffix('.json')}")
    else:
        print(text)
    for line in run.wrong:
        say(f"not recorded: {line}")
    sys.exit(1 if any(line.startswith("ours") for line in run.wrong) else 0)


if __name__ == "__main__":
    main()
