"""What every system is made to do. Each workload measures one system once, on a database made afresh for the round.

A workload yields (table, statement, sample); a sample has µs and bytes of WAL per row or transaction, and for
bulk statements the bytes by which the system's own tables (heap with TOAST) and indexes grew.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from server import Failed, pgbench, psql, wal_position
from systems import TABLES

STATEMENTS = ("INSERT", "UPDATE", "DELETE", "COPY")

# Row values from the row's number, the same for a statement, COPY and one-row transactions.
VALUES = {
    "acct": "g, g % 10, g * 7 % 100000, repeat('x', 60)",
    "wide": (
        "g, g * 3, (g % 100)::smallint, g / 7.0, (g % 1000)::numeric(12,2), g / 3.0::float8, 'name ' || g, 'street ' || g % 500, "
        "'city', repeat('note ', g % 12), g % 2 = 0, timestamptz '2024-01-01' + g * interval '1 minute', date '2024-01-01' + g % 365, "
        "md5(g::text)::uuid, jsonb_build_object('k', g, 'tags', jsonb_build_array('a', g % 5)), ARRAY[g % 3, g % 4], 'open', NULL, NULL, 'end'"
    ),
    "keyed_seq": "g, 0, repeat('x', 60)",
    "keyed_uuid": "gen_random_uuid(), 0, repeat('x', 60)",
}
CHANGES = {
    "acct": "abalance = abalance + 1",
    "wide": "c4 = c4 + 1, c17 = 'closed', c12 = c12 + interval '1 hour'",
}
KEY = {"acct": "aid", "wide": "id"}
# Named, because some systems add columns to the table.
COLUMNS = {
    "acct": "aid, bid, abalance, filler",
    "wide": "id, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c12, c13, c14, c15, c16, c17, c18, c19, c20",
    "keyed_seq": "id, n, filler",
    "keyed_uuid": "id, n, filler",
}
TAGS = "/*traceparent='00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01',route='%2Fbench'*/"
CAUSES = {
    "typed": ("UPDATE acct SET abalance = abalance + 1;", "UPDATE acct SET abalance = abalance + 1 WHERE aid = :id;"),
    "called": (f"SELECT monthly_run() {TAGS};", f"SELECT post(:id::int) {TAGS};"),
}


@dataclass
class Place:
    """One system's database in one round."""

    database: str
    system: object
    options: object
    folder: Path  # of the run's scripts and data
    seed: int
    changes: dict = field(default_factory=dict)  # {table: {operation: rows}} made so far
    broken: bool = False  # a workload failed on it

    def made(self, table, **rows):
        for operation, count in rows.items():
            done = self.changes.setdefault(table, {})
            done[operation] = done.get(operation, 0) + count

    def script(self, name, text):
        path = self.folder / f"{name}.sql"
        path.write_text(text)
        return str(path)

    def psql(self, sql, **settings):
        return psql(sql, self.database, **settings)

    def pgbench(self, *options, **settings):
        return pgbench(self.database, "--random-seed", str(self.seed), *options, **settings)


def insert(table, rows, first=1):
    return f"INSERT INTO {table} ({COLUMNS[table]}) SELECT {VALUES[table]} FROM generate_series({first}, {first + rows - 1}) g;"


def log_size():
    """SQL of (heap with TOAST, indexes) in bytes of everything in the database but the tables that are measured on."""
    tables = ", ".join(f"'{table}'" for table in TABLES)
    return (
        "SELECT 'SIZE', coalesce(sum(pg_table_size(c.oid)), 0), coalesce(sum(pg_indexes_size(c.oid)), 0) FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname !~ '^(pg_|information_schema)' "
        f"AND NOT (n.nspname = 'public' AND c.relname IN ({tables}));"
    )


def warm_up(place, table, rows):
    """After a checkpoint the first change of a page writes it whole: here, not in what is measured."""
    place.psql(f"CHECKPOINT; {insert(table, rows)} UPDATE {table} SET {CHANGES[table]}; DELETE FROM {table}; VACUUM {table};", synchronous_commit="off")
    place.made(table, insert=rows, update=rows, delete=rows)


def bulk_script(table, rows, data):
    statements = {
        "INSERT": insert(table, rows),
        "UPDATE": f"UPDATE {table} SET {CHANGES[table]};",
        "DELETE": f"DELETE FROM {table};",
        "COPY": f"\\copy {table} ({COLUMNS[table]}) FROM '{data}'",
    }
    lsn = "SELECT 'LSN', pg_current_wal_insert_lsn() - '0/0';"
    parts = []
    for name in STATEMENTS:
        parts += [f"VACUUM {table};", f"\\echo AT {name}", log_size(), lsn, "\\timing on", statements[name], "\\timing off", lsn, log_size()]
    parts += [f"DELETE FROM {table}; VACUUM {table};"]
    return "\n".join(parts)


def bulk(place):
    """Statements of many rows."""
    rows = place.options.rows
    for table in KEY:
        data = place.folder / f"{table}.copy"
        if not data.exists():
            data.write_text("\n".join(place.psql(f"COPY (SELECT {VALUES[table]} FROM generate_series(1, {rows}) g) TO STDOUT")) + "\n")
        warm_up(place, table, rows // 10 + 1)
        name, sizes, lsns, sample = None, [], [], None
        for line in place.psql(bulk_script(table, rows, data), synchronous_commit="off"):
            if line.startswith("AT "):
                name, sizes, lsns = line[3:], [], []
            elif line.startswith("Time: "):
                sample = {"us": float(line.split()[1]) * 1000 / rows}
            elif line.startswith("LSN|"):
                lsns.append(int(line.split("|")[1]))
            elif line.startswith("SIZE|"):
                sizes.append([int(part) for part in line.split("|")[1:]])
                if len(sizes) == 2:
                    sample["wal"] = (lsns[1] - lsns[0]) / rows
                    sample["heap"], sample["index"] = ((after - before) / rows for before, after in zip(*sizes, strict=True))
                    yield table, name, sample
        place.made(table, insert=2 * rows, update=rows, delete=2 * rows)


def one_row(place, synchronous_commit):
    """Transactions of one row, one client."""
    count = place.options.count if synchronous_commit == "off" else place.options.count // 5 + 1
    for table, key in KEY.items():
        values = re.sub(r"\bg\b", ":id::int", VALUES[table])
        bodies = {
            "INSERT": f"INSERT INTO {table} ({COLUMNS[table]}) VALUES ({values});",
            "UPDATE": f"UPDATE {table} SET {CHANGES[table]} WHERE {key} = :id;",
            "DELETE": f"DELETE FROM {table} WHERE {key} = :id;",
        }
        warm_up(place, table, count // 10 + 1)
        for name, body in bodies.items():
            path = place.script(f"one_row_{table}_{name}", f"\\set id :id + 1\n{body}\n")
            sample, ran = place.pgbench("-f", path, "-c", "1", "-t", str(count), "-D", "id=0", synchronous_commit=synchronous_commit)
            place.made(table, **{name.lower(): ran})
            yield table, name, sample
        place.psql(f"VACUUM {table}")


def duration(options):
    return ("-T", str(options.seconds)) if options.seconds else ("-t", str(options.count // 8))


def clients(place, synchronous_commit):
    """8 clients that update one row each of many."""
    rows = place.options.rows
    warm_up(place, "acct", rows // 10 + 1)
    place.psql(f"{insert('acct', rows)} VACUUM ANALYZE acct;", synchronous_commit="off")
    place.made("acct", insert=rows)
    path = place.script("clients", f"\\set id random(1, {rows})\nUPDATE acct SET {CHANGES['acct']} WHERE aid = :id;\n")
    sample, ran = place.pgbench("-f", path, "-c", "8", "-j", "2", *duration(place.options), synchronous_commit=synchronous_commit)
    place.psql("DELETE FROM acct; VACUUM acct;", synchronous_commit="off")
    place.made("acct", update=ran, delete=rows)
    yield "acct", "UPDATE", sample


def tpcb(place, synchronous_commit):
    """pgbench's own transaction, all four tables under the system, 8 clients."""
    program = ("-b", "tpcb-like", "-c", "8", "-j", "2")
    place.psql("VACUUM pgbench_branches; VACUUM pgbench_tellers; VACUUM pgbench_accounts; CHECKPOINT")
    # As many as touch most pages once, whatever the system's speed, so that no one has more whole pages to write.
    warm = max(1, place.options.scale * place.options.count // 10 // 8)
    ran = place.pgbench(*program, "-t", str(warm), synchronous_commit="off")[1]
    sample, more = place.pgbench(*program, *duration(place.options), synchronous_commit=synchronous_commit)
    for table in ("pgbench_accounts", "pgbench_tellers", "pgbench_branches"):
        place.made(table, update=ran + more)
    place.made("pgbench_history", insert=ran + more)
    yield "pgbench", "TPC-B", sample


def toast(place):
    """An UPDATE of an int beside an unchanged text of 48 KB, in transactions of one row."""
    rows = place.options.toast_rows
    count = max(rows, place.options.count // 10)
    path = place.script("toast", f"\\set step :step + 1\n\\set id 1 + :step % {rows}\nUPDATE toasted SET n = n + 1 WHERE id = :id;\n")
    place.psql("CHECKPOINT")
    ran = place.pgbench("-f", path, "-t", str(rows), "-D", "step=0", synchronous_commit="off")[1]
    sample, more = place.pgbench("-f", path, "-t", str(count), "-D", "step=0", synchronous_commit="off")
    place.made("toasted", update=ran + more)
    place.psql("VACUUM toasted")
    yield "toasted", "UPDATE", sample


def cause(place):
    """The same UPDATE typed, and run by a function that a function calls, with a trace in the statement's comment."""
    if place.system.kind not in ("none", "ours"):
        return
    rows = place.options.rows
    warm_up(place, "acct", rows // 10 + 1)
    place.psql(insert("acct", rows), synchronous_commit="off")
    place.made("acct", insert=rows, update=4 * rows, delete=rows)
    for name, (statement, of_one_row) in CAUSES.items():
        # The first run warms up: the function's plans, the table's room for new versions.
        place.psql(f"{statement} VACUUM acct;", synchronous_commit="off")
        before = wal_position()
        timed = place.psql(f"\\timing on\n{statement}\n", synchronous_commit="off")
        us = next(float(line.split()[1]) for line in timed if line.startswith("Time: ")) * 1000 / rows
        yield "acct", name, {"us": us, "wal": (wal_position() - before) / rows}
        place.psql("VACUUM acct")
        path = place.script(f"cause_{name}", f"\\set id 1 + (:id % {rows})\n{of_one_row}\n")
        sample, ran = place.pgbench("-f", path, "-t", str(place.options.count // 2), "-D", "id=0", synchronous_commit="off")
        place.made("acct", update=ran)
        yield "acct", f"{name}, one row", sample
        place.psql("VACUUM acct")
    place.psql("DELETE FROM acct; VACUUM acct;", synchronous_commit="off")


def records_causes(database):
    """Whether the call stacks of `cause` are in the record at all."""
    return bool(psql("SELECT 1 FROM threadline.audit_transactions WHERE statements::text LIKE '%change_accounts%' LIMIT 1", database))


def check(place):
    """Every change that was made has to be recorded; otherwise what does not hold."""
    wrong = []
    if place.system.recorded is None:
        return wrong
    for table, operations in place.changes.items():
        expected = sum(place.system.rows[operation] * rows for operation, rows in operations.items())
        try:
            found = int(place.psql(place.system.recorded.format(table=table, flat=table.replace("_", "")))[0])
        except Failed as failure:
            wrong.append(f"{place.system.name}, {table}: {failure}")
            continue
        if found != expected:
            wrong.append(f"{place.system.name}, {table}: {expected} rows expected, {found} recorded")
    return wrong


WORKLOADS = {
    "bulk": bulk,
    "one-row, sync off": lambda place: one_row(place, "off"),
    "one-row, sync on": lambda place: one_row(place, "on"),
    "8 clients, sync off": lambda place: clients(place, "off"),
    "8 clients, sync on": lambda place: clients(place, "on"),
    "TPC-B, sync off": lambda place: tpcb(place, "off"),
    "TPC-B, sync on": lambda place: tpcb(place, "on"),
    "unchanged TOAST": toast,
    "cause": cause,
}
