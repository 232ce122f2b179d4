"""One-row inserts into a log several times shared_buffers, with and without the whole pages that follow a checkpoint."""

import re

from server import configure, number, psql
from workloads import COLUMNS, VALUES, insert, log_size

KEYS = {"keyed_seq": "sequence", "keyed_uuid": "random uuid"}
MEASURED = {"off": "INSERT, no checkpoint", "on": "INSERT, after a checkpoint"}


def log_bytes(place):
    return sum(int(part) for part in place.psql(log_size())[0].split("|")[1:])


def preload(place):
    """Rows come and go until the log is large enough. Both tables, since each has its own place in an index by key."""
    wanted = place.options.large_factor * number(
        "SELECT setting::bigint * pg_size_bytes('8kB') FROM pg_settings WHERE name = 'shared_buffers'"
    )
    # A system that keeps nothing would never end: as many rows as the leanest log needs, at 100 bytes a change.
    most = int(wanted // (2 * 100 * len(KEYS)))
    batch = max(1000, most // 20)
    rows, size = 0, log_bytes(place)
    while size < wanted and rows < most and place.system.recorded:
        for table in KEYS:
            place.psql(f"{insert(table, batch, rows + 1)} DELETE FROM {table}; VACUUM {table};", synchronous_commit="off")
        rows += batch
        size = log_bytes(place)
    return rows, size


def run(place, round_number):
    """Yields (table, statement, sample). full_page_writes off is what the log costs long after a checkpoint, exactly."""
    count = max(100, place.options.count // 5)
    first = round_number * 10**9
    for table in KEYS:
        values = re.sub(r"\bg\b", ":id", VALUES[table])
        # Every transaction is of another request, as those of applications are.
        said = "SELECT set_config('threadline.request_id', gen_random_uuid()::text, true)"
        path = place.script(f"large_{table}", f"\\set id :id + 1\nBEGIN;\n{said};\nINSERT INTO {table} ({COLUMNS[table]}) VALUES ({values});\nCOMMIT;\n")
        for whole_pages, name in MEASURED.items():
            configure(full_page_writes=whole_pages)
            psql("CHECKPOINT")
            sample, ran = place.pgbench("-f", path, "-t", str(count), "-D", f"id={first}", synchronous_commit="off")
            first += ran
            yield table, name, sample
    configure(full_page_writes="on")
