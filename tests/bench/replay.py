#!/usr/bin/env python3
"""What replaying a history under invariants costs, beside what people write by hand for one of them, and beside the least that reading
the events takes.

The history is made once (sql/replay_data.sql), as the log of threadline_forensics and as a plain table of events. All contenders answer
the same question, how often and when an account gets below zero, and must answer it alike; the models that ours checks are
sql/replay_models.sql. Each is asked in each of --rounds rounds, interleaved, and its best answer counts; quick ones are asked again for
--seconds, so that noise does not make a slow floor. Then histories of two sizes are verified, checkpointed and checked again after 1,000
events more. Only ratios within one run mean anything.

Needs a server of its own (PGHOST, PGPORT, PGUSER a superuser, PGBIN): `make bench-replay` makes one. Prints Markdown, or writes it to
--out FILE with the samples beside it as FILE's name in .json.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import peers
import report
from server import HERE, PREFIX, Failed, about_machine, configure, create_database, psql, restart

QUICK = {"events": 100_000, "rounds": 1, "seconds": 0}
SETTINGS = {
    "autovacuum": "off", "checkpoint_timeout": "1h", "max_wal_size": "4GB", "jit": "off", "max_parallel_workers_per_gather": "0", "work_mem": "256MB",
}
IN_TRANSACTION = 10  # events of one, as sql/replay_data.sql makes them
MORE = 1000  # events that come after a checkpoint
# After a tenth of the events or after all of them: the next check may differ by noise, not by a factor.
SAME = 1.5

# Ours says what was found as the peers do: events, violations, the first one's event.
OURS = """
SELECT concat_ws('|', r ->> 'events_processed', jsonb_array_length(r -> 'violations'), (r #>> '{{violations,0,failure_step}}')::bigint + 1)
FROM threadline.replay_check('{model}', stop_on_first_failure => false{more}) r
"""
EV = "SELECT seq, event ->> 'key' AS key, (event ->> 'amount')::int AS amount FROM ev"


@dataclass(frozen=True)
class Contender:
    name: str
    title: str
    sql: str | None = None  # of one row, its answer; none: a way of peer_replay.py by the contender's name
    answers: str = "found"  # which of the right answers it must give
    modelled: bool = False  # needs sql/replay_models.sql


CONTENDERS = (
    Contender("ours-one", "ours, one invariant, declarative", OURS.format(model="bench_one", more=""), modelled=True),
    Contender("ours-ten", "ours, ten invariants", OURS.format(model="bench_ten", more=""), modelled=True),
    Contender(
        "ours-events", "ours, an SQL projection over the table of events",
        OURS.format(model="bench_events", more=", events => 'SELECT seq, at, event FROM ev ORDER BY seq'"), modelled=True,
    ),
    Contender(
        "ours-table", "ours, does the log give the table",
        "SELECT concat_ws('|', r ->> 'events_processed', r ->> 'verdict') FROM threadline.replay_check('acct'::regclass) r", "holds",
    ),
    Contender("dict", "Python dict fold over a server-side cursor (psycopg)"),
    Contender("loop", "PL/pgSQL loop, state in an array by key", "SELECT concat_ws('|', events, violations, first_seq) FROM loop_array()"),
    Contender("loop-table", "PL/pgSQL loop, state in a keyed temporary table", "SELECT concat_ws('|', events, violations, first_seq) FROM loop_table()"),
    # Rows in order and groups by hash is quicker than an ORDER BY in the aggregate, and with these settings the order stays.
    Contender(
        "aggregate", "CREATE AGGREGATE with an SQL step function",
        "SELECT concat_ws('|', sum(n), sum((s).violations), min((s).first_seq)) FROM ("
        f"SELECT count(*) AS n, fold(seq, amount) AS s FROM ({EV} ORDER BY seq) e GROUP BY key) k",
    ),
    Contender("eventsourcing", "PyPI eventsourcing, aggregates in memory, reading not counted"),
    Contender(
        "window", "window query, sum() OVER (PARTITION BY key ORDER BY seq)",
        "SELECT concat_ws('|', count(*), count(*) FILTER (WHERE fell), min(seq) FILTER (WHERE fell)) FROM ("
        "SELECT seq, balance < 0 AND balance - amount >= 0 AS fell FROM ("
        f"SELECT seq, amount, sum(amount) OVER (PARTITION BY key ORDER BY seq) AS balance FROM ({EV}) e) b) f",
    ),
    Contender(
        "floor", "floor: GROUP BY key over the table of events, one process",
        f"SELECT concat_ws('|', sum(n), count(*), sum(total)) FROM (SELECT count(*) AS n, sum(amount) AS total FROM ({EV}) e GROUP BY key) k", "sums",
    ),
    Contender(
        "floor-log", "floor: the same over the log's images",
        "SELECT concat_ws('|', sum(n), count(*), sum(total)) FROM (SELECT count(*) AS n, sum((new_image ->> 'balance')::bigint) AS total "
        "FROM threadline.change_log GROUP BY new_image ->> 'id') k", "log sums",
    ),
)
COMPARED = ("dict", "loop", "aggregate", "floor", "floor-log")
CHECKPOINT = "ours-checkpoint"
NAMES = [*(contender.name for contender in CONTENDERS), CHECKPOINT]
MODELLED = [*(contender.name for contender in CONTENDERS if contender.modelled), CHECKPOINT]

# (of whom, what, beside whom, the most its time may be of the other's)
TARGETS = (
    ("ours-one", "one declarative invariant ≥ 3× the Python fold", "dict", 1 / 3),
    ("ours-one", "one declarative invariant ≥ 2× the hand-written aggregate", "aggregate", 1 / 2),
    ("ours-one", "one declarative invariant within 4× of the floor", "floor", 4),
    ("ours-ten", "ten invariants ≤ 2× the time of one", "ours-one", 2),
)


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def database_of(events):
    return f"{PREFIX}replay_{events}"


def script(name, events, options):
    psql((HERE / "sql" / name).read_text(), database_of(events), f"-vkeys={options.keys}", f"-vevents={events}", synchronous_commit="off")


def make_data(events, options):
    create_database(database_of(events))
    script("replay_data.sql", events, options)
    script("replay_peers.sql", events, options)
    psql("CHECKPOINT")
    say(f"{events:,} events made")


def right_answers(events, options):
    """What the plan of the events says: an account is below zero after one event only, then repaid."""
    database = database_of(events)
    planted = psql("SELECT concat_ws('|', count(*), min(seq)) FROM ev WHERE (event ->> 'balance')::bigint < 0", database)[0]
    total = options.keys * 1_000_000
    balances = psql("SELECT sum((event ->> 'balance')::bigint) FROM ev", database)[0]
    return {
        "found": f"{events}|{planted}", "sums": f"{events}|{options.keys}|{total}", "log sums": f"{events}|{options.keys}|{balances}", "holds": f"{events}|holds",
    }


def timed(sql, database):
    """(seconds, answer) of a query of one value."""
    answer, timing = psql(f"\\timing on\n{sql.strip()};\n", database)
    return float(timing.split()[1]) / 1000, answer


def ask(contender, database):
    if contender.sql:
        return timed(contender.sql, database)
    done = json.loads(peers.python_peer("peer_replay.py", database, contender.name))
    return done["seconds"], done["answer"]


def make_models(options):
    """Complaints by contender, where they cannot be had: the others are measured all the same."""
    wanted = [name for name in MODELLED if name in options.only]
    try:
        if wanted:
            script("replay_models.sql", options.events, options)
    except Failed as failure:
        return {name: f"no models: {failure}" for name in wanted}
    return {}


def ask_for_a_while(contender, options, right):
    """Seconds of each answer in one round."""
    seconds = []
    while not seconds or sum(seconds) < options.seconds:
        took, answer = ask(contender, database_of(options.events))
        if answer != right[contender.answers]:
            raise Failed(f"answers {answer}, right is {right[contender.answers]}")
        seconds.append(took)
    return seconds


def measure(options, failed):
    """Seconds by contender; adds to the complaints."""
    samples, right = {}, right_answers(options.events, options)
    for number in range(options.rounds):
        for contender in CONTENDERS:
            if contender.name in failed or contender.name not in options.only:
                continue
            try:
                samples.setdefault(contender.name, []).extend(ask_for_a_while(contender, options, right))
            except Failed as failure:
                failed[contender.name] = str(failure)
        say(f"round {number + 1} of {options.rounds} done")
    return samples


def check_after_more(events, options):
    """Seconds of the full check of a history of that size, and of each check that has only MORE events to add to a checkpoint."""
    database = database_of(events)
    whole, _ = timed(OURS.format(model="bench_one", more=""), database)
    # The last of them overdraws, by itself, so that a check that looks at none of them is noticed.
    newest = "SELECT threadline.replay_check('bench_one', stop_on_first_failure => false) #>> '{violations,-1,state_after,value}'"
    after = []
    for number in range(options.rounds):
        last = events + (number + 1) * MORE
        psql("SELECT threadline.replay_checkpoint('bench_one')", database)
        psql(
            f"CALL move({last - MORE + 1}, {last - 1}); UPDATE acct SET balance = -{last} WHERE id = (SELECT key FROM planned({last}, {last}))",
            database,
        )
        seconds, answer = timed(newest, database)
        if answer != str(-last):
            raise Failed(f"the check after {MORE:,} events more ends at {answer or 'nothing'}, right is {-last}")
        after.append(seconds)
    return {"whole": whole, "after": after}


def sizes(options):
    return (options.big_events // 10, options.big_events)


def measure_checkpoint(options, failed):
    """Last, because it adds to the histories."""
    measured = {}
    if CHECKPOINT not in options.only or CHECKPOINT in failed:
        return measured
    try:
        for events in sizes(options):
            if events != options.events:
                make_data(events, options)
                script("replay_models.sql", events, options)
            measured[events] = check_after_more(events, options)
    except Failed as failure:
        failed[CHECKPOINT] = str(failure)
    return measured


# --- what is said of it -------------------------------------------------------------------------


def speeds(options, samples, failed):
    best = {name: min(seconds) for name, seconds in samples.items() if name not in failed}
    rows = []
    for contender in CONTENDERS:
        if contender.name in failed:
            rows.append([contender.title, f"failed: {failed[contender.name]}", *[""] * len(COMPARED)])
        elif contender.name in best:
            mine = best[contender.name]
            ratios = [report.figure(best[other] / mine if other in best else None, "{:.2f}×") for other in COMPARED]
            rows.append([contender.title, f"{options.events / mine:,.0f}", *ratios])
    return report.table(["contender", "events/s", *(f"× {name}" for name in COMPARED)], rows)


def targets(samples, failed, checkpoint):
    best = {name: min(seconds) for name, seconds in samples.items() if name not in failed}
    rows = []
    for mine, what, other, limit in TARGETS:
        if mine not in best or other not in best:
            rows.append([what, report.NOTHING, "not measured"])
            continue
        ratio = best[mine] / best[other]
        # As the target says it: how many times as quick, or how many times the time.
        said = f"{1 / ratio:.2f}×" if limit < 1 else f"{ratio:.2f}× the time"
        rows.append([what, said, "met" if ratio <= limit else "**not met**"])
    what = f"{MORE:,} events after a checkpoint: the check takes as long after ten times the events (± {SAME - 1:.0%})"
    if len(checkpoint) == 2:
        small, big = (min(measured["after"]) for measured in checkpoint.values())
        rows.append([what, f"{big / small:.2f}× the time", "met" if big / small <= SAME else "**not met**"])
    else:
        rows.append([what, report.NOTHING, "not measured"])
    return report.table(["target", "measured", "verdict"], rows)


def increments(checkpoint, failed):
    rows = [
        [f"{events:,}", f"{1000 * measured['whole']:,.0f}", f"{1000 * min(measured['after']):,.1f}", f"1/{measured['whole'] / min(measured['after']):,.0f}"]
        for events, measured in checkpoint.items()
    ]
    lines = report.table(["events before", "full check, ms", f"check after {MORE:,} more, ms", "of the full check"], rows)
    return lines + ([f"Failed: {failed[CHECKPOINT]}", ""] if CHECKPOINT in failed else [])


def markdown(options, described, samples, failed, checkpoint):
    lines = ["# Cost of replay", ""]
    if options.quick:
        lines += ["**A quick run, to check the program: these figures mean nothing.**", ""]
    lines += [
        f"{described['version']}; {described['machine']}; {', '.join(described['settings'])}.", "",
        f"{options.events:,} events of {options.keys:,} keys, transactions of {IN_TRANSACTION}, best answer in {options.rounds} interleaved rounds. Every contender counted the "
        "events, how often an account got below zero and when first, and answered right; the floors only sum, the last of ours compares rows with the table. "
        "× is how many times as quick as the other.", "",
        *speeds(options, samples, failed), "## Targets", "", *targets(samples, failed, checkpoint),
    ]
    if CHECKPOINT in options.only:
        lines += ["## After a checkpoint", "", *increments(checkpoint, failed)]
    return "\n".join(lines)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000, help="a multiple of --keys")
    parser.add_argument("--keys", type=int, default=10_000, help=f"a multiple of {IN_TRANSACTION}")
    parser.add_argument("--big-events", type=int, help="size of the larger history that is checkpointed, the other has a tenth of it (default: --events)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="of one contender in one round, at least")
    parser.add_argument("--only", type=lambda text: text.split(","), default=NAMES, metavar="NAMES", help=f"of {','.join(NAMES)}")
    parser.add_argument("--cluster", help="the server is this cluster of tests/tools/cluster, to be restarted for its settings")
    parser.add_argument("--out", type=Path, help="file for the Markdown; the samples go beside it as .json")
    parser.add_argument("--quick", action="store_true", help="a tenth of the events, once, to check this program: the figures mean nothing")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    options.big_events = options.big_events or options.events
    # The plan of events goes by whole rounds of the keys, its transactions are parts of one.
    if options.keys % IN_TRANSACTION or options.events % options.keys or options.big_events % (10 * options.keys):
        parser.error(f"--keys must be a multiple of {IN_TRANSACTION}, --events of --keys, --big-events of ten times --keys")
    # The first account is overdrawn in the third round and repaid in the fourth.
    if options.events < 4 * options.keys:
        parser.error("--events must be at least four times --keys")
    # An account that an earlier round left below zero would not get there again.
    if CHECKPOINT in options.only and options.rounds * MORE > options.keys:
        parser.error(f"--keys must be {MORE:,} or more for each of --rounds")
    unknown = set(options.only) - set(NAMES)
    if unknown:
        parser.error(f"no contender {', '.join(sorted(unknown))}: there are {', '.join(NAMES)}")
    return options


def main():
    options = parse()
    try:
        configure(**SETTINGS)
        if options.cluster:
            restart(options.cluster, shared_buffers=f"{min(4096, max(128, about_machine()[1] // 4))}MB")
        make_data(options.events, options)
        described = report.describe_server()
        failed = make_models(options)
        samples = measure(options, failed)
        checkpoint = measure_checkpoint(options, failed)
        for events in {options.events, *sizes(options)}:
            psql(f'DROP DATABASE IF EXISTS "{database_of(events)}"')
    except Failed as failure:
        sys.exit(f"the benchmark stops: {failure}")
    finally:
        configure(**dict.fromkeys([*SETTINGS, "shared_buffers"]))
    for name, reason in failed.items():
        say(f"{name}: {reason}")
    text = markdown(options, described, samples, failed, checkpoint)
    if options.out:
        options.out.write_text(text)
        found = {"events": options.events, "keys": options.keys, "server": described, "seconds": samples, "failed": failed, "checkpoint": checkpoint}
        options.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        say(f"written: {options.out} and {options.out.with_suffix('.json')}")
    else:
        print(text)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
