"""The run as Markdown for people and as JSON for programs."""

from figures import BULK, CLIENTS, LARGE, MB, ONE_ROW, ONE_ROW_ON, TOAST, TPCB, Figures, Targets
from server import about_machine, psql

SETTINGS = ("shared_buffers", "wal_level", "fsync", "full_page_writes", "autovacuum", "max_wal_size", "wal_compression", "jit")
NOTHING = "—"
EXPLAINED = (
    "Overhead is the difference to no trigger in the same run; only differences and ratios mean anything. The session says its actor, "
    "correlation and request: ours records all of it, the others what they record by default."
)


def describe_server():
    """What the numbers were measured on."""
    cores, memory_mb = about_machine()
    settings = psql(f"SELECT name || ' = ' || current_setting(name) FROM unnest('{{{','.join(SETTINGS)}}}'::text[]) AS name")
    return {
        "version": psql("SELECT version()")[0],
        "machine": f"{cores}, {memory_mb / 1024:.0f} GB of memory",
        "settings": settings,
    }


def figure(value, form="{:.2f}"):
    return NOTHING if value is None else form.format(value)


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows), ""]


def bytes_of(figures, key, system):
    """WAL/heap/index above no trigger."""
    if not figures.measured(key, system):
        return NOTHING
    return "/".join(figure(figures.over(key, system, what), "{:.0f}") for what in ("wal", "heap", "index"))


def with_ratio(figures, workload, system):
    over, ratio = figures.mean_over(workload, system), figures.mean_ratio(workload, system)
    return NOTHING if over is None else f"{over:+.2f} ({ratio:.2f}×)"


def throughput(figures, workload, system):
    cells = figures.shared(workload, system)
    if not cells:
        return NOTHING
    return f"{1e6 / figures.median(cells[0], system):,.0f} ({1 / figures.ratio(cells[0], system):.2f}×)"


def summary(figures):
    head = [
        "system", "bulk +µs a row (× none)", "one row, sync off, +µs (× none)", "one row, sync on, +µs (× none)", "8 clients tx/s (× none)",
        "TPC-B tx/s (× none)", "UPDATE acct WAL/heap/index B", "UPDATE wide WAL/heap/index B", "unchanged 48 KB: +µs / WAL B",
    ]
    toast = (TOAST, "toasted", "UPDATE")
    rows = []
    for name in figures.names:
        rows.append([
            name, *(with_ratio(figures, workload, name) for workload in (BULK, ONE_ROW, ONE_ROW_ON)),
            *(throughput(figures, workload, name) for workload in (CLIENTS, TPCB)),
            *(bytes_of(figures, (BULK, table_, "UPDATE"), name) for table_ in ("acct", "wide")),
            f"{figure(figures.over(toast, name), '{:+.1f}')} / {figure(figures.over(toast, name, 'wal'), '{:,.0f}')}",
        ])
    return table(head, rows)


def everything(figures):
    head = [
        "workload", "table", "statement", "system", "µs", "+µs", "× none", "ours / this", "spread", "WAL B", "+WAL B", "heap B", "index B",
    ]
    rows = []
    for key in figures.run.samples:
        for system in figures.names:
            if not figures.measured(key, system) or not figures.measured(key, "none"):
                continue
            against = figures.against(key, "ours", system) if system != "none" and figures.measured(key, "ours") else None
            rows.append([
                *key, system, figure(figures.median(key, system)), figure(figures.over(key, system), "{:+.2f}"), figure(figures.ratio(key, system)),
                figure(against), figure(figures.spread(key, system), "{:.0%}"), figure(figures.median(key, system, "wal"), "{:.0f}"),
                figure(figures.over(key, system, "wal"), "{:+.0f}"),
                figure(figures.over(key, system, "heap"), "{:.0f}"), figure(figures.over(key, system, "index"), "{:.0f}"),
            ])
    return table(head, rows)


def large_log(figures):
    run, rows = figures.run, []
    for table_, kind in (("keyed_seq", "sequence"), ("keyed_uuid", "random uuid")):
        calm, after = ((LARGE, table_, name) for name in ("INSERT, no checkpoint", "INSERT, after a checkpoint"))
        for system in figures.names:
            if figures.measured(calm, system) and figures.measured(after, system):
                one, two = (figures.median(key, system, "wal") for key in (calm, after))
                rows.append([
                    kind, system, f"{run.log_sizes[system] / MB:.0f}",
                    figure(figures.over(calm, system), "{:+.2f}"), figure(figures.over(after, system), "{:+.2f}"),
                    f"{one:.0f}", f"{two:.0f}", f"{two / one:.2f}",
                    figure(figures.over(calm, system, "wal"), "{:+.0f}"), figure(figures.over(after, system, "wal"), "{:+.0f}"),
                ])
    return table(["key", "system", "log MB", "+µs", "+µs after", "WAL B", "WAL B after", "after / without", "+WAL B", "+WAL B after"], rows)


def memory(run):
    rows = []
    for system, found in run.memory.items():
        for statement, peak in found.items():
            rows.append([system, f"{statement} of {run.options.memory_rows:,} rows", f"{peak['private'] / MB:.1f}", f"{peak['with_shared'] / MB:.1f}"])
    lines = table(["system", "statement", "peak of private memory, MB above the session's before", "peak resident with shared buffers, MB"], rows)
    rows = [
        [system, f"{grown['statements']:,}", f"{grown['contexts_bytes']:+,}", f"{grown['contexts']:+}", f"{grown['private']:+,}"]
        for system, grown in run.leak.items()
    ]
    return lines + table(["system", "statements in one session", "memory contexts, B grown", "contexts more", "private memory, B grown"], rows)


def markdown(run):
    figures, options = Figures(run), run.options
    lines = ["# Cost of capture", ""]
    if options.quick:
        lines += ["**A quick run, to check the program: these figures mean nothing.**", ""]
    lines += [
        f"{run.server['version']}; {run.server['machine']}; {', '.join(run.server['settings'])}.", "",
        f"{options.rows:,} rows a statement, {options.count:,} one-row transactions a run, 8 clients for {options.seconds} s, "
        f"pgbench scale {options.scale}, medians of {options.rounds} interleaved rounds. " + EXPLAINED, "",
        "## Targets", "", *table(["work", "target", "measured", "verdict"], Targets(figures).all()),
        "## Systems", "", "Means over both tables and all statements of the workload; bytes are above no trigger's.", "", *summary(figures),
        *(f"- `{system.name}`: {system.title}" for system in run.systems), "",
    ]
    missing = [f"- `{name}` skipped: {reason}" for name, reason in run.skipped.items()]
    missing += [f"- `{system}` failed in {workload}: {reason}" for (workload, system), reason in run.failed.items()]
    if missing:
        lines += ["## Not measured", "", *missing, ""]
    if run.log_sizes:
        lines += [
            f"## Log of {options.large_factor} × shared_buffers", "",
            "One-row INSERTs into a preloaded log: with full_page_writes off, which is as long after a checkpoint, and right after one.", "",
            *large_log(figures),
        ]
    if run.memory or run.leak:
        lines += ["## Memory", "", *memory(run)]
    how = "Per row for `bulk` and `cause`, else per transaction over all clients. Spread is the rounds' range by the median."
    lines += ["## Every measurement", "", how, "", *everything(figures)]
    lines += ["Every change was recorded." if not run.wrong else "NOT EVERY CHANGE WAS RECORDED: " + "; ".join(run.wrong)]
    return "\n".join(lines) + "\n"


def machine(run):
    """Everything that was measured, sample by sample."""
    return {
        "server": run.server,
        "options": {name: value for name, value in vars(run.options).items() if name not in ("out", "cluster")},
        "systems": {system.name: system.title for system in run.systems},
        "skipped": run.skipped,
        "failed": [{"workload": workload, "system": system, "reason": reason} for (workload, system), reason in run.failed.items()],
        "not_recorded": run.wrong,
        "targets": [dict(zip(("work", "target", "measured", "verdict"), row, strict=True)) for row in Targets(Figures(run)).all()],
        "samples": [
            {"workload": key[0], "table": key[1], "statement": key[2], "system": system, "samples": samples}
            for key, measured in run.samples.items() for system, samples in measured.items()
        ],
        "large_log_bytes": run.log_sizes,
        "memory": run.memory,
        "leak": run.leak,
    }
