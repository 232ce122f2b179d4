#!/usr/bin/env python3
"""What capture costs: no trigger, ours, and a generic PL/pgSQL audit trigger, interleaved in one run.

Needs a running server (PGHOST, PGPORT, PGUSER, a superuser) and PGBIN; `make bench` sets them. Only differences and
ratios within one run mean anything. Prints Markdown; exits 1 when a system did not record every change it was given.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATABASE = "threadline_bench"
SYSTEMS = ("none", "ours", "plpgsql")
TABLES = ("acct", "wide")
STATEMENTS = ("INSERT", "UPDATE", "DELETE", "COPY")

# Row values from the row's number, the same for a statement, COPY and one-row transactions.
VALUES = {
    "acct": "g, g % 10, g * 7 % 100000, repeat('x', 60)",
    "wide": (
        "g, g * 3, (g % 100)::smallint, g / 7.0, (g % 1000)::numeric(12,2), g / 3.0::float8, 'name ' || g, 'street ' || g % 500, "
        "'city', repeat('note ', g % 12), g % 2 = 0, timestamptz '2024-01-01' + g * interval '1 minute', date '2024-01-01' + g % 365, "
        "md5(g::text)::uuid, jsonb_build_object('k', g, 'tags', jsonb_build_array('a', g % 5)), ARRAY[g % 3, g % 4], 'open', NULL, NULL, 'end'"
    ),
}
CHANGES = {
    "acct": "abalance = abalance + 1",
    "wide": "c4 = c4 + 1, c17 = 'closed', c12 = c12 + interval '1 hour'",
}
KEY = {"acct": "aid", "wide": "id"}
CONTEXT = """
SET synchronous_commit = off;
SET threadline.actor_ref = '{"type": "service_account", "id": "bench"}';
SET threadline.correlation_id = 'bench-correlation';
"""


def program(name):
    path = Path(os.environ["PGBIN"]) / name
    return str(path) if path.exists() else name


def psql(sql, database=DATABASE):
    """Runs a script; its unaligned output lines."""
    done = subprocess.run(
        [program("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database],
        input=sql, capture_output=True, text=True,
    )
    if done.returncode != 0:
        sys.exit(f"psql: {done.stderr}")
    return done.stdout.splitlines()


def setup():
    psql(f"DROP DATABASE IF EXISTS {DATABASE}", "postgres")
    psql(f"CREATE DATABASE {DATABASE} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'", "postgres")
    psql((HERE / "setup.sql").read_text())


def log_size(system):
    """SQL of (heap with toast, indexes) in bytes of what the system keeps."""
    schema = {"none": "nothing", "ours": "threadline", "plpgsql": "plpgsql_log"}[system]
    return (
        "SELECT 'SIZE', coalesce(sum(pg_table_size(c.oid)), 0), coalesce(sum(pg_indexes_size(c.oid)), 0) FROM pg_class c "
        f"JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = '{schema}' AND c.relkind = 'r';"
    )


def bulk_script(system, table, rows, data):
    target, key = f"{system}.{table}", KEY[table]
    statements = {
        "INSERT": f"INSERT INTO {target} SELECT {VALUES[table]} FROM generate_series(1, {rows}) g;",
        "UPDATE": f"UPDATE {target} SET {CHANGES[table]};",
        "DELETE": f"DELETE FROM {target};",
        "COPY": f"\\copy {target} FROM '{data}'",
    }
    parts = [CONTEXT]
    for name in STATEMENTS:
        lsn = "SELECT 'LSN', pg_current_wal_insert_lsn() - '0/0';"
        parts += [f"VACUUM {target};", f"\\echo AT {name}", log_size(system), lsn, "\\timing on", statements[name], "\\timing off", lsn, log_size(system)]
    parts += [f"DELETE FROM {target} WHERE {key} > 0;", f"VACUUM {target};"]
    return "\n".join(parts)


def run_bulk(system, table, rows, data):
    """Per statement: µs, WAL bytes, heap bytes, index bytes, each per row."""
    found, name, sizes, lsns = {}, None, [], []
    for line in psql(bulk_script(system, table, rows, data)):
        if line.startswith("AT "):
            name, sizes, lsns = line[3:], [], []
        elif line.startswith("Time: "):
            found[name] = {"us": float(line.split()[1]) * 1000 / rows}
        elif line.startswith("LSN|"):
            lsns.append(int(line.split("|")[1]))
        elif line.startswith("SIZE|"):
            sizes.append([int(part) for part in line.split("|")[1:]])
            if len(sizes) == 2:
                found[name]["wal"] = (lsns[1] - lsns[0]) / rows
                found[name]["heap"] = (sizes[1][0] - sizes[0][0]) / rows
                found[name]["index"] = (sizes[1][1] - sizes[0][1]) / rows
    return found


def pgbench(script, *options):
    done = subprocess.run(
        [program("pgbench"), "-n", "-M", "prepared", "-f", str(script), *options, DATABASE],
        capture_output=True, text=True,
        env={**os.environ, "PGOPTIONS": "-c synchronous_commit=off -c threadline.correlation_id=bench"},
    )
    tps = re.search(r"^tps = ([0-9.]+)", done.stdout, re.M)
    ran = re.search(r"actually processed: (\d+)", done.stdout)
    if done.returncode != 0 or not tps or not ran:
        sys.exit(f"pgbench: {done.stderr}")
    return float(tps.group(1)), int(ran.group(1))


def one_row_scripts(folder, system, table):
    target, key = f"{system}.{table}", KEY[table]
    values = re.sub(r"\bg\b", ":id::int", VALUES[table])
    bodies = {
        "INSERT": f"INSERT INTO {target} VALUES ({values});",
        "UPDATE": f"UPDATE {target} SET {CHANGES[table]} WHERE {key} = :id;",
        "DELETE": f"DELETE FROM {target} WHERE {key} = :id;",
    }
    paths = {}
    for name, body in bodies.items():
        paths[name] = folder / f"{system}_{table}_{name}.sql"
        paths[name].write_text(f"\\set id :id + 1\n{body}\n")
    return paths


def run_one_row(folder, system, table, count):
    """µs per transaction of one row."""
    found = {}
    for name, path in one_row_scripts(folder, system, table).items():
        tps, _ = pgbench(path, "-c", "1", "-t", str(count), "-D", "id=0")
        found[name] = {"us": 1e6 / tps}
    return found


def run_clients(folder, system, rows, seconds):
    psql(f"{CONTEXT} INSERT INTO {system}.acct SELECT {VALUES['acct']} FROM generate_series(1, {rows}) g; VACUUM ANALYZE {system}.acct;")
    path = folder / f"{system}_clients.sql"
    path.write_text(f"\\set id random(1, {rows})\nUPDATE {system}.acct SET {CHANGES['acct']} WHERE aid = :id;\n")
    tps, ran = pgbench(path, "-c", "8", "-j", "2", "-T", str(seconds))
    psql(f"{CONTEXT} DELETE FROM {system}.acct; VACUUM {system}.acct;")
    return tps, ran + 2 * rows


def recorded(system, table):
    source = {
        "ours": f"threadline.audit_changes WHERE table_schema = 'ours' AND table_name = '{table}'",
        "plpgsql": f"plpgsql_log.audit_changes WHERE table_name = '{table}'",
    }[system]
    return int(psql(f"SELECT count(*) FROM {source}")[0])


def median(samples, key):
    return statistics.median(sample[key] for sample in samples)


def report_costs(title, results, with_bytes):
    """`results[system][table][statement]` is a list of samples."""
    print(f"\n### {title}\n")
    head = ["table", "statement", "none µs", "ours µs", "plpgsql µs", "ours +µs", "plpgsql +µs", "ours ×", "plpgsql ×"]
    if with_bytes:
        head += ["ours WAL +B", "plpgsql WAL +B", "ours heap+index B", "plpgsql heap+index B"]
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    ratios = {"ours": [], "plpgsql": []}
    for table in TABLES:
        for statement in STATEMENTS:
            cell = {system: results[system][table].get(statement) for system in SYSTEMS}
            if not cell["none"]:
                continue
            us = {system: median(cell[system], "us") for system in SYSTEMS}
            row = [table, statement] + [f"{us[s]:.2f}" for s in SYSTEMS]
            row += [f"{us[s] - us['none']:+.2f}" for s in SYSTEMS[1:]]
            row += [f"{us[s] / us['none']:.2f}" for s in SYSTEMS[1:]]
            for system in SYSTEMS[1:]:
                ratios[system].append(us[system] / us["none"])
            if with_bytes:
                row += [f"{median(cell[s], 'wal') - median(cell['none'], 'wal'):.0f}" for s in SYSTEMS[1:]]
                row += [f"{median(cell[s], 'heap'):.0f}+{median(cell[s], 'index'):.0f}" for s in SYSTEMS[1:]]
            print("| " + " | ".join(row) + " |")
    print(f"\nGeometric mean against no trigger: ours {statistics.geometric_mean(ratios['ours']):.2f}×, "
          f"plpgsql {statistics.geometric_mean(ratios['plpgsql']):.2f}×")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="rows of a bulk statement")
    parser.add_argument("--count", type=int, default=20_000, help="one-row transactions of a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="length of a run with 8 clients")
    options = parser.parse_args()

    setup()
    bulk = {s: {t: {} for t in TABLES} for s in SYSTEMS}
    one_row = {s: {t: {} for t in TABLES} for s in SYSTEMS}
    clients = {s: [] for s in SYSTEMS}
    expected = {(s, t): 0 for s in SYSTEMS for t in TABLES}
    with tempfile.TemporaryDirectory(prefix="threadline_bench_") as name:
        folder = Path(name)
        # Round 0 warms up: pages, plans, the first extents of the logs. It is checked but not reported.
        for number in range(options.rounds + 1):
            rows, count = (options.rows, options.count) if number > 0 else (options.rows // 10 + 1, options.count // 10 + 1)
            for table in TABLES:
                lines = psql(f"COPY (SELECT {VALUES[table]} FROM generate_series(1, {rows}) g) TO STDOUT")
                (folder / table).write_text("\n".join(lines) + "\n")
            order = [SYSTEMS[(number + i) % len(SYSTEMS)] for i in range(len(SYSTEMS))]
            for table in TABLES:
                for system in order:
                    for statement, sample in run_bulk(system, table, rows, folder / table).items():
                        if number > 0:
                            bulk[system][table].setdefault(statement, []).append(sample)
                    # INSERT, UPDATE, DELETE, COPY, and the DELETE that tidies up.
                    expected[system, table] += 5 * rows
                for system in order:
                    for statement, sample in run_one_row(folder, system, table, count).items():
                        if number > 0:
                            one_row[system][table].setdefault(statement, []).append(sample)
                    expected[system, table] += 3 * count
            for system in order:
                tps, changes = run_clients(folder, system, rows, options.seconds)
                expected[system, "acct"] += changes
                if number > 0:
                    clients[system].append({"tps": tps})
            print(f"round {number} of {options.rounds} done", file=sys.stderr)

    print(f"# Cost of capture\n\n{psql('SELECT version()')[0]}\n")
    print(f"{options.rows} rows a statement, {options.count} one-row transactions a run, medians of {options.rounds} interleaved rounds, synchronous_commit off.")
    report_costs("Statements, per row", bulk, with_bytes=True)
    report_costs("One-row transactions, per transaction", one_row, with_bytes=False)
    print("\n### 8 clients, one-row UPDATE\n\n| system | tx/s | of no trigger |\n|---|---|---|")
    none = median(clients["none"], "tps")
    for system in SYSTEMS:
        print(f"| {system} | {median(clients[system], 'tps'):.0f} | {median(clients[system], 'tps') / none:.2f} |")

    wrong = []
    for system in SYSTEMS[1:]:
        for table in TABLES:
            found = recorded(system, table)
            if found != expected[system, table]:
                wrong.append(f"{system}.{table}: {expected[system, table]} changes made, {found} recorded")
    print("\nEvery change was recorded." if not wrong else "\nNOT EVERY CHANGE WAS RECORDED: " + "; ".join(wrong))
    psql(f"DROP DATABASE {DATABASE}", "postgres")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
