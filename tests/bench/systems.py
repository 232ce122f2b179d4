"""The systems that are compared: how each is put on the tables, and how many of its rows tell of a change."""

from collections.abc import Callable
from dataclasses import dataclass, field

import peers
from server import HERE, psql

TABLES = ("acct", "wide", "toasted", "keyed_seq", "keyed_uuid", "pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history")
EVERY_CHANGE = {"insert": 1, "update": 1, "delete": 1}


@dataclass(frozen=True)
class System:
    name: str
    title: str
    setup: Callable[[str], None] | None = None  # given a database with the tables; raises Failed where it cannot be had
    recorded: str | None = None  # SQL of the number of rows about {table}, or about {flat}, its name in small letters alone
    rows: dict = field(default_factory=lambda: EVERY_CHANGE)  # rows that one change makes
    kind: str = "peer"  # none, empty, ours or peer


def script(name):
    return lambda database: psql((HERE / "sql" / name).read_text(), database)


def ours(options):
    def setup(database):
        given = f", options => '{options}'" if options else ""
        enable = [f"SELECT threadline.audit_enable('{table}', baseline => false{given});" for table in TABLES]
        psql("\n".join(["CREATE EXTENSION threadline_forensics;", *enable]), database)

    return setup


def table_log(database):
    peers.debian_extension("table_log", "tablelog")
    log = [f"SELECT table_log_init(5, 'public', '{table}', 'table_log', '{table}');" for table in TABLES]
    psql("\n".join(["CREATE EXTENSION table_log;", "CREATE SCHEMA table_log;", *log]), database)


def periods(database):
    peers.debian_extension("periods", "periods")
    version = [f"SELECT periods.add_system_time_period('{table}'); SELECT periods.add_system_versioning('{table}');" for table in TABLES]
    psql("\n".join(["CREATE EXTENSION periods CASCADE;", *version]), database)


def pghistory(level):
    return lambda database: peers.python_peer("peer_pghistory.py", database, level)


OURS = "SELECT count(*) FROM threadline.audit_changes WHERE table_schema = 'public' AND table_name = '{table}'"
PGHISTORY = "SELECT count(*) FROM bench_{flat}event"

SYSTEMS = (
    System("none", "no trigger", kind="none"),
    System("empty", "a native AFTER ROW trigger that does nothing", script("empty.sql"), kind="empty"),
    System("ours", "threadline_forensics, default options", ours(None), OURS, kind="ours"),
    System("ours-full", 'threadline_forensics, {"image": "full"}', ours('{"image": "full"}'), OURS, kind="ours"),
    System("ours-delta", 'threadline_forensics, {"image": "delta"}', ours('{"image": "delta"}'), OURS, kind="ours"),
    System(
        "plpgsql", "generic PL/pgSQL trigger (to_jsonb, transaction upsert, changed fields, three btrees)", script("plpgsql.sql"),
        "SELECT count(*) FROM plpgsql_log.audit_changes WHERE table_name = '{table}'",
    ),
    System("pghistory", "PyPI django-pghistory, default row level, insert, update and delete tracked, no context set", pghistory("row"), PGHISTORY),
    System("pghistory-stmt", "PyPI django-pghistory, statement level", pghistory("statement"), PGHISTORY),
    System(
        "postgresql-audit", "PyPI postgresql-audit, default statement level, no transaction row written",
        lambda database: peers.python_peer("peer_postgresql_audit.py", database),
        "SELECT count(*) FROM activity WHERE table_name = '{table}'",
    ),
    System(
        "table_log", "Debian tablelog (typed rows, old and new)", table_log, "SELECT count(*) FROM table_log.{table}",
        {"insert": 1, "update": 2, "delete": 1},
    ),
    System(
        "periods", "Debian periods (SQL:2011 system versioning: two more columns, records no INSERT)", periods,
        "SELECT count(*) FROM {table}_history", {"insert": 0, "update": 1, "delete": 1},
    ),
)
