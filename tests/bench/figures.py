"""Medians of a run's samples, and the targets judged from them. Nothing here is a result: every verdict is computed."""

from statistics import geometric_mean, median

BULK, ONE_ROW, ONE_ROW_ON = "bulk", "one-row, sync off", "one-row, sync on"
CLIENTS, TPCB, TOAST, LARGE = "8 clients, sync off", "TPC-B, sync off", "unchanged TOAST", "large log"
MB = 2**20
# An overhead below that is noise, and nothing is said in parts of it.
LEAST_US = 0.01


class Figures:
    def __init__(self, run):
        self.run = run
        self.names = [system.name for system in run.systems]

    def cells(self, workload):
        return [key for key in self.run.samples if key[0] == workload]

    def measured(self, key, system):
        return bool(self.run.samples.get(key, {}).get(system))

    def median(self, key, system, what="us"):
        values = [sample[what] for sample in self.run.samples.get(key, {}).get(system, ()) if what in sample]
        return median(values) if values else None

    def over(self, key, system, what="us"):
        """Difference to no trigger."""
        one, none = self.median(key, system, what), self.median(key, "none", what)
        return None if one is None or none is None else one - none

    def ratio(self, key, system):
        """Time against no trigger."""
        return self.median(key, system) / self.median(key, "none")

    def spread(self, key, system):
        """Largest less smallest time of the rounds, as a part of the median."""
        times = [sample["us"] for sample in self.run.samples[key][system]]
        return (max(times) - min(times)) / median(times)

    def shared(self, workload, *systems):
        """The workload's cells that all of these systems and no trigger were measured in."""
        return [key for key in self.cells(workload) if all(self.measured(key, system) for system in ("none", *systems))]

    def mean_ratio(self, workload, system):
        cells = self.shared(workload, system)
        return geometric_mean(self.ratio(key, system) for key in cells) if cells else None

    def mean_over(self, workload, system):
        cells = self.shared(workload, system)
        return sum(self.over(key, system) for key in cells) / len(cells) if cells else None

    def against(self, key, system, other):
        """A system's overhead as a part of another's; None where the other has none to speak of."""
        mine, theirs = self.over(key, system), self.over(key, other)
        return None if mine is None or theirs is None or theirs < LEAST_US else mine / theirs


def shown(key):
    return f"{key[1]} {key[2]}"


def limit_of_cells(values, mean, limit, at_least=False):
    """(mean with the worst cell, verdict) of {cell: ratio} against a limit that every cell should keep."""
    def keeps(value):
        return value >= limit if at_least else value <= limit

    worst = (min if at_least else max)(values, key=values.get)
    text = f"{mean:.2f} in the mean" + (f", worst {values[worst]:.2f} ({shown(worst)})" if len(values) > 1 else "")
    missed = [shown(key) for key, value in values.items() if not keeps(value)]
    if not missed:
        return text, "met"
    if keeps(mean):
        return text, f"met in the mean, not by {', '.join(missed)}"
    return text, "**not met**"


def limit_of_one(value, limit, text, at_least=False):
    return text, "met" if (value >= limit if at_least else value <= limit) else "**not met**"


class Targets:
    """Every capture target: (work, target, measured, verdict)."""

    def __init__(self, figures):
        self.figures = figures
        self.run = figures.run
        # Byte targets are the delta images', wherever those are to be had.
        self.lean = "ours-delta" if "ours-delta" in figures.names else "ours"
        self.rows = []

    def add(self, work, target, judge, *arguments):
        try:
            measured, verdict = judge(*arguments)
        except LookupError as missing:
            measured, verdict = "—", f"not measured: {missing.args[0]}"
        self.rows.append((work, target, measured, verdict))

    def need(self, key, system):
        """Raises with the reason where a figure is missing."""
        if self.figures.measured(key, "none") and self.figures.measured(key, system):
            return
        reason = self.run.skipped.get(system) or self.run.failed.get((key[0], system))
        raise LookupError(f"{system}: {reason}" if reason else "it was left out of this run")

    def against(self, workload, peer, limit):
        cells = self.figures.shared(workload, "ours", peer)
        if not cells:
            self.need((workload,), peer)
        values = {key: self.figures.against(key, "ours", peer) for key in cells}
        values = {key: value for key, value in values.items() if value is not None}
        theirs = self.figures.mean_over(workload, peer)
        if not values or theirs < LEAST_US:
            raise LookupError(f"{peer} shows no overhead here")
        # Not the mean of the ratios, which a single overhead lost in the noise would pull down to nothing.
        return limit_of_cells(values, self.figures.mean_over(workload, "ours") / theirs, limit)

    def geomean(self, workload, limit):
        value = self.figures.mean_ratio(workload, "ours")
        if value is None:
            self.need((workload,), "ours")
        return limit_of_one(value, limit, f"{value:.2f}×")

    def throughput(self, workload, limit):
        cells = self.figures.shared(workload, "ours")
        if not cells:
            self.need((workload,), "ours")
        values = {key: 1 / self.figures.ratio(key, "ours") for key in cells}
        return limit_of_cells(values, geometric_mean(values.values()), limit, at_least=True)

    def wal(self, key, limit):
        self.need(key, self.lean)
        value = self.figures.over(key, self.lean, "wal")
        return limit_of_one(value, limit, f"{value:.0f} B ({self.lean})")

    def after_checkpoint(self, limit):
        values = {}
        for table in ("keyed_seq", "keyed_uuid"):
            keys = [(LARGE, table, name) for name in ("INSERT, no checkpoint", "INSERT, after a checkpoint")]
            for key in keys:
                self.need(key, "ours")
            calm, after = (self.figures.median(key, "ours", "wal") for key in keys)
            values[table] = after / calm
        text = f"{values['keyed_seq']:.2f}× with keys of a sequence; {values['keyed_uuid']:.2f}× with random uuids"
        if values["keyed_seq"] <= limit < values["keyed_uuid"]:
            return text, "met for keys in order; random keys write a whole page each, in the table's own index too"
        return limit_of_one(max(values.values()), limit, text)

    def on_top(self, what, limit, unit):
        values = {}
        for rows in ("", ", one row"):
            typed, called = (("cause", "acct", f"{name}{rows}") for name in ("typed", "called"))
            self.need(called, "ours")
            values[rows] = self.figures.over(called, "ours", what) - self.figures.over(typed, "ours", what)
        if not self.run.causes_recorded:
            raise LookupError("this build records no call stack")
        bulk, one = values.values()
        text = f"{bulk:+.2f} {unit} a row of a bulk statement, {one:+.2f} {unit} a one-row transaction"
        if bulk <= limit < one:
            return text, "met by bulk statements, not by one-row transactions"
        return limit_of_one(max(bulk, one), limit, text)

    def memory(self, limit):
        memory = self.run.memory
        for system in ("ours", "empty"):
            if system not in memory:
                raise LookupError(self.run.failed.get(("memory", system), "it was left out of this run"))
        above = {name: (memory["ours"][name]["private"] - memory["empty"][name]["private"]) / MB for name in memory["ours"]}
        text = ", ".join(f"{name} {value:+.1f} MB" for name, value in above.items()) + f", at {self.run.options.memory_rows:,} rows"
        return limit_of_one(max(above.values()), limit, text)

    def leak(self):
        leak = self.run.leak
        for system in ("ours", "none"):
            if system not in leak:
                raise LookupError(self.run.failed.get(("memory", system), "it was left out of this run"))
        grown = leak["ours"]["contexts_bytes"] - leak["none"]["contexts_bytes"]
        count = leak["ours"]["statements"]
        # Blocks of memory contexts double, so a little late growth is none; a leak of a byte in ten statements is one.
        return limit_of_one(grown, max(65536, count / 10), f"{grown:+,} B of memory contexts over {count:,} statements")

    def all(self):
        bulk, one_row = "bulk INSERT/UPDATE/DELETE/COPY, both tables", "one-row transactions, sync off"
        wal, cause = "WAL of an UPDATE, delta images", "cause chain and tags on top"
        self.add(bulk, "overhead ≤ 1/10 of the generic PL/pgSQL trigger's", self.against, BULK, "plpgsql", 0.1)
        self.add(bulk, "overhead ≤ 1/4 of django-pghistory's", self.against, BULK, "pghistory", 0.25)
        self.add(bulk, "≤ 2.8× no trigger, geometric mean", self.geomean, BULK, 2.8)
        self.add(one_row, "overhead ≤ 1/6 of the generic PL/pgSQL trigger's", self.against, ONE_ROW, "plpgsql", 1 / 6)
        self.add(one_row, "overhead ≤ 1/2 of django-pghistory's", self.against, ONE_ROW, "pghistory", 0.5)
        self.add(one_row, "≤ 1.35× no trigger, geometric mean", self.geomean, ONE_ROW, 1.35)
        self.add("one-row transactions, sync on", "≥ 0.85× the throughput", self.throughput, ONE_ROW_ON, 0.85)
        self.add("8 clients, one-row UPDATE", "≥ 0.70× the throughput", self.throughput, CLIENTS, 0.70)
        self.add("TPC-B on all four tables", "≥ 0.85× the throughput", self.throughput, TPCB, 0.85)
        self.add(wal, "≤ 270 B, acct", self.wal, (BULK, "acct", "UPDATE"), 270)
        self.add(wal, "≤ 360 B, wide", self.wal, (BULK, "wide", "UPDATE"), 360)
        self.add(wal, "≤ 1 KB beside an unchanged 48 KB", self.wal, (TOAST, "toasted", "UPDATE"), 1024)
        self.add("WAL of an INSERT after a checkpoint, large log", "≤ 1.3× the same without", self.after_checkpoint, 1.3)
        self.add(cause, "≤ +1.0 µs a row", self.on_top, "us", 1.0, "µs")
        self.add(cause, "≤ 16 B a row", self.on_top, "wal", 16, "B")
        self.add("memory of a statement of many rows", "≤ 64 MB above an empty trigger", self.memory, 64)
        self.add("memory over many statements", "no leak", self.leak)
        return self.rows
