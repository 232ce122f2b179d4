#!/usr/bin/env python3
"""What questions about the past cost, beside a primary-key lookup and a sequential scan of the live table, and beside the
recipes of other systems over the same history.

The history is made once (sql/read_data.sql) by threadline_forensics and copied into the tables of the others
(sql/read_peers.sql). Every question is asked in each of --rounds rounds, interleaved; figures are medians over rounds of
the mean time of one answer. Only ratios within one run mean anything.

Needs a server of its own (PGHOST, PGPORT, PGUSER a superuser, PGBIN): `make bench-read` makes one. Prints Markdown, or
writes it to --out FILE with the samples beside it as FILE's name in .json.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import report
from server import HERE, PREFIX, Failed, about_machine, configure, create_database, pgbench, psql, restart

DATABASE = f"{PREFIX}read"
QUICK = {"rows": 2000, "changes": 10_000, "versions": 100, "asked": 20, "rounds": 1}
SETTINGS = {"autovacuum": "off", "checkpoint_timeout": "1h", "max_wal_size": "4GB", "jit": "off", "max_parallel_workers_per_gather": "0"}

# An answer that takes longer is none.
PATIENCE = "3min"

LOOKUP = "primary-key lookup of the live row"
SCAN = "sequential scan of the live table"


@dataclass(frozen=True)
class Question:
    name: str
    system: str
    sql: str  # :middle, :recent and :incident are literals of the data's moments, :half the middle of the keys
    compared_with: str | None = None  # the name of another question
    target: str | None = None
    limit: float | None = None  # of the ratio to it, or of milliseconds
    whole: bool = False  # asked few times: it takes long


QUESTIONS = (
    Question(LOOKUP, "server", "SELECT * FROM acct WHERE aid = 1"),
    Question("one row as of T", "ours", "SELECT * FROM threadline.audit_as_of('acct', 1, :middle)", LOOKUP, "≤ 3× the lookup", 3),
    Question("one row as of T, typed", "ours", "SELECT * FROM threadline.audit_row_as_of(NULL::acct, 1, :middle)", LOOKUP, "≤ 3× the lookup", 3),
    Question("the table as of T, WHERE key", "ours", "SELECT * FROM threadline.audit_as_of(NULL::acct, :middle) WHERE aid = 1", LOOKUP),
    Question(
        "one row as of T", "generic trigger",
        "SELECT data_after FROM generic.audit_changes WHERE table_schema = 'public' AND table_name = 'acct' AND table_pk = '{\"aid\": \"1\"}' "
        "AND captured_at <= :middle ORDER BY captured_at DESC, id DESC LIMIT 1", LOOKUP,
    ),
    Question(
        "one row as of T", "pgMemento's way",
        "SELECT (SELECT l.old_data FROM memento.row_log l WHERE l.audit_id = a.aid AND l.old_data ? 'bid' AND l.captured_at > :middle ORDER BY l.id LIMIT 1), "
        "(SELECT l.old_data FROM memento.row_log l WHERE l.audit_id = a.aid AND l.old_data ? 'abalance' AND l.captured_at > :middle ORDER BY l.id LIMIT 1), "
        "(SELECT l.old_data FROM memento.row_log l WHERE l.audit_id = a.aid AND l.old_data ? 'filler' AND l.captured_at > :middle ORDER BY l.id LIMIT 1) "
        "FROM acct a WHERE a.aid = 1", LOOKUP,
    ),
    Question("history of a row with many versions, 50 changes", "ours", "SELECT * FROM threadline.audit_history('acct', 1, max_rows => 50)", None, "≤ 1 ms", 1),
    Question("history of a row, 50 changes", "ours", "SELECT * FROM threadline.audit_history('acct', :half, max_rows => 50)", None, "≤ 1 ms", 1),
    Question(
        "history of a row with many versions, 50 changes", "generic trigger",
        "SELECT * FROM generic.audit_changes WHERE table_schema = 'public' AND table_name = 'acct' AND table_pk = '{\"aid\": \"1\"}' "
        "ORDER BY captured_at DESC, id DESC LIMIT 50",
    ),
    Question("timeline by correlation, 50 changes", "ours", "SELECT * FROM threadline.audit_timeline(correlation_id => 'incident', max_rows => 50)", None, "≤ 10 ms", 10),
    Question("timeline by request, 50 changes", "ours", "SELECT * FROM threadline.audit_timeline(request_id => 'r-1', max_rows => 50)", None, "≤ 10 ms", 10),
    Question("timeline by job, 50 changes", "ours", "SELECT * FROM threadline.audit_timeline(job_id => 'j-1', max_rows => 50)", None, "≤ 10 ms", 10),
    Question(
        "timeline by actor, 50 changes", "ours",
        "SELECT * FROM threadline.audit_timeline(actor => '{\"type\": \"user\", \"id\": \"u-1\"}', max_rows => 50)", None, "≤ 10 ms", 10,
    ),
    Question("incident bundle of 1,000 changes", "ours", "SELECT threadline.incident_bundle(:incident)", None, "≤ 50 ms", 50, whole=True),
    Question(SCAN, "server", "COPY (SELECT * FROM acct) TO '/dev/null'", whole=True),
    Question(
        "the table as of T, 1 % changed since", "ours", "COPY (SELECT * FROM threadline.audit_as_of(NULL::acct, :recent)) TO '/dev/null'",
        SCAN, "≤ 3× the scan", 3, whole=True,
    ),
    Question(
        "the table as of T, half of the log since", "ours", "COPY (SELECT * FROM threadline.audit_as_of(NULL::acct, :incident_at)) TO '/dev/null'",
        SCAN, whole=True,
    ),
    Question(
        "the table as of T, 1 % changed since", "generic trigger",
        "COPY (SELECT DISTINCT ON (table_pk) data_after FROM generic.audit_changes WHERE table_schema = 'public' AND table_name = 'acct' "
        "AND captured_at <= :recent ORDER BY table_pk, captured_at DESC, id DESC) TO '/dev/null'", SCAN, whole=True,
    ),
    Question(
        "the table as of T, 1 % changed since", "pgMemento's way",
        "COPY (SELECT a.aid, coalesce((SELECT l.old_data ->> 'bid' FROM memento.row_log l WHERE l.audit_id = a.aid AND l.old_data ? 'bid' "
        "AND l.captured_at > :recent ORDER BY l.id LIMIT 1), a.bid::text), coalesce((SELECT l.old_data ->> 'abalance' FROM memento.row_log l "
        "WHERE l.audit_id = a.aid AND l.old_data ? 'abalance' AND l.captured_at > :recent ORDER BY l.id LIMIT 1), a.abalance::text), "
        "coalesce((SELECT l.old_data ->> 'filler' FROM memento.row_log l WHERE l.audit_id = a.aid AND l.old_data ? 'filler' "
        "AND l.captured_at > :recent ORDER BY l.id LIMIT 1), a.filler) FROM acct a) TO '/dev/null'", SCAN, whole=True,
    ),
)


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def make_data(options):
    create_database(DATABASE)
    variables = [f"-v{name}={getattr(options, name)}" for name in ("rows", "changes", "versions")]
    psql((HERE / "sql/read_data.sql").read_text(), DATABASE, *variables, synchronous_commit="off")
    say("history made")
    psql((HERE / "sql/read_peers.sql").read_text(), DATABASE, synchronous_commit="off", maintenance_work_mem="512MB")
    psql("CHECKPOINT")
    say("copied for the others")


def with_moments(sql, options):
    found = dict(line.split("|", 1) for line in psql("SELECT name, at FROM moment", DATABASE))
    incident = psql("SELECT transaction_id FROM moment WHERE name = 'incident'", DATABASE)[0]
    for name, value in (
        (":incident_at", f"'{found['incident']}'"), (":incident", f"'{incident}'"), (":middle", f"'{found['middle']}'"),
        (":recent", f"'{found['recent']}'"), (":half", str(options.rows // 2)),
    ):
        sql = sql.replace(name, value)
    return sql


def ask(question, options, folder):
    """Milliseconds of one answer."""
    sql = with_moments(question.sql, options)
    if question.whole:
        # The first answer of a session loads and plans.
        lines = psql(f"\\o /dev/null\n{sql};\n\\timing on\n{sql};\n", DATABASE, statement_timeout=PATIENCE)
        return next(float(line.split()[1]) for line in lines if line.startswith("Time: "))
    path = folder / "question.sql"
    path.write_text(f"{sql};\n")
    # The first answers of a session load and plan.
    sample, _ = pgbench(DATABASE, "-f", str(path), "-t", str(options.asked))
    return sample["us"] / 1000


def measure(options):
    samples, failed = {}, {}
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        for number in range(options.rounds):
            for question in QUESTIONS:
                key = (question.name, question.system)
                if key in failed:
                    continue
                try:
                    samples.setdefault(key, []).append(ask(question, options, Path(name)))
                except Failed as failure:
                    failed[key] = str(failure)
                    say(f"{question.system}, {question.name}: {failure}")
            say(f"round {number + 1} of {options.rounds} done")
    return samples, failed


def verdict(question, ms, ratio):
    if question.limit is None:
        return ""
    return "met" if (ratio if question.compared_with else ms) <= question.limit else "**not met**"


def markdown(options, described, samples, failed):
    medians = {key: statistics.median(values) for key, values in samples.items() if values}
    reference = {name: ms for (name, system), ms in medians.items() if system == "server"}
    rows = []
    for question in QUESTIONS:
        key = (question.name, question.system)
        if key in failed or key not in medians:
            rows.append([question.name, question.system, "failed", failed.get(key, ""), question.target or "", "**not met**" if question.limit else ""])
            continue
        ms = medians[key]
        ratio = ms / reference[question.compared_with] if question.compared_with else None
        rows.append([question.name, question.system, f"{ms:.3f}", report.figure(ratio, "{:.1f}×"), question.target or "", verdict(question, ms, ratio)])
    return "\n".join([
        "# Cost of questions about the past", "",
        f"{described['version']}; {described['machine']}; {', '.join(described['settings'])}.", "",
        f"{options.changes:,} changes of {options.rows:,} rows, one row with {options.versions:,} versions more; medians of {options.rounds} interleaved rounds, "
        f"look-ups over {options.asked} answers each, prepared, one client. The lookup and the scan are what answers are compared with.", "",
        *report.table(["question", "system", "ms", "× lookup or scan", "target", "verdict"], rows),
    ])


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--changes", type=int, default=10_000_000)
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--asked", type=int, default=2000, help="answers of one run of a look-up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cluster", help="the server is this cluster of tests/tools/cluster, to be restarted for its settings")
    parser.add_argument("--keep", action="store_true", help="use the history of the last run, and leave it there")
    parser.add_argument("--out", type=Path, help="file for the Markdown; the samples go beside it as .json")
    parser.add_argument("--quick", action="store_true", help="everything tiny, to check this program: the figures mean nothing")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    return options


def main():
    options = parse()
    try:
        configure(**SETTINGS)
        if options.cluster:
            restart(options.cluster, shared_buffers=f"{min(4096, max(128, about_machine()[1] // 4))}MB")
        if not options.keep or not psql(f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"):
            make_data(options)
        described = report.describe_server()
        samples, failed = measure(options)
        if not options.keep:
            psql(f'DROP DATABASE "{DATABASE}"')
    except Failed as failure:
        sys.exit(f"the benchmark stops: {failure}")
    finally:
        configure(**dict.fromkeys([*SETTINGS, "shared_buffers"]))
    text = markdown(options, described, samples, failed)
    if options.out:
        options.out.write_text(text)
        options.out.with_suffix(".json").write_text(json.dumps({"|".join(key): values for key, values in samples.items()}, indent=1) + "\n")
        say(f"written: {options.out} and {options.out.with_suffix('.json')}")
    else:
        print(text)
    sys.exit(1 if any(system == "ours" for _, system in failed) else 0)


if __name__ == "__main__":
    main()
