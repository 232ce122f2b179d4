"""The server that is measured: scripts through psql and pgbench, its settings and restarts, the memory of its processes."""

import os
import re
import shlex
import subprocess
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
PREFIX = "threadline_bench_"
MARK = "the answer ends here"

# Who and why, for every session of every system: ours records it all, the generic trigger the actor.
CONTEXT = {
    "threadline.actor_ref": '{"type": "service_account", "id": "bench"}',
    "threadline.correlation_id": "bench-correlation",
    "threadline.request_id": "bench-request",
}


class Failed(Exception):
    """What the server or a program refused, in its own words."""


def program(name):
    path = Path(os.environ["PGBIN"]) / name
    return str(path) if path.exists() else name


def environment(**settings):
    return {**os.environ, "PGOPTIONS": " ".join(f"-c {name}={value}" for name, value in settings.items())}


def complaint(text):
    """The first error of a program's output, or its last line."""
    found = re.search(r"(?:ERROR|FATAL):\s*(.+)", text)
    lines = text.strip().splitlines() or ["no output"]
    return found.group(1) if found else lines[-1]


def psql(sql, database="postgres", *options, **settings):
    """Runs a script; its unaligned output lines."""
    done = subprocess.run(
        [program("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *options, "-d", database],
        input=sql, capture_output=True, check=False, text=True, env=environment(**settings),
    )
    if done.returncode != 0:
        raise Failed(complaint(done.stderr))
    return done.stdout.splitlines()


def number(sql, database="postgres"):
    return float(psql(sql, database)[0])


def wal_position():
    return int(number("SELECT pg_current_wal_insert_lsn() - '0/0'"))


def pgbench(database, *options, **settings):
    """µs of a transaction over all clients, bytes of WAL of one, and how many ran."""
    before = wal_position()
    done = subprocess.run(
        [program("pgbench"), "-n", "-M", "prepared", *options, database],
        capture_output=True, check=False, text=True, env=environment(**settings),
    )
    tps = re.search(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
    ran = re.search(r"actually processed: (\d+)", done.stdout)
    if done.returncode != 0 or not tps or not ran or int(ran.group(1)) == 0:
        raise Failed(complaint(done.stderr))
    count = int(ran.group(1))
    return {"us": 1e6 / float(tps.group(1)), "wal": (wal_position() - before) / count}, count


def pgbench_tables(database, scale):
    done = subprocess.run([program("pgbench"), "-i", "-q", "-s", str(scale), database], capture_output=True, check=False, text=True)
    if done.returncode != 0:
        raise Failed(complaint(done.stderr))


# --- databases ----------------------------------------------------------------------------------


def create_database(name, template="template0"):
    options = "ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'" if template == "template0" else ""
    # Before 15 there is no other way, and no word for it.
    psql("\n".join([
        "SELECT CASE WHEN current_setting('server_version_num')::int >= 150000 THEN 'STRATEGY file_copy' ELSE '' END AS copied \\gset",
        f'DROP DATABASE IF EXISTS "{name}";',
        f'CREATE DATABASE "{name}" TEMPLATE "{template}" {options} :copied;',
        *(f"ALTER DATABASE \"{name}\" SET {setting} = '{value}';" for setting, value in CONTEXT.items()),
    ]))


def drop_databases():
    for name in psql(f"SELECT datname FROM pg_database WHERE starts_with(datname, '{PREFIX}')"):
        psql(f'DROP DATABASE "{name}"')


# --- settings -----------------------------------------------------------------------------------


def configure(**settings):
    """Settings of the whole server that need no restart; None is the server's own."""
    changes = [f"RESET {name}" if value is None else f"SET {name} = '{value}'" for name, value in settings.items()]
    psql("\n".join([*(f"ALTER SYSTEM {change};" for change in changes), "SELECT pg_reload_conf();"]))
    time.sleep(0.2)


def restart(cluster, **settings):
    """Restarts a throwaway cluster of tests/tools/cluster, whose port may then be another."""
    configure(**settings)
    tool = str(TOP / "tests/tools/cluster")
    for step in ("stop", "start"):
        subprocess.run([tool, step, cluster], check=True)
    described = subprocess.run([tool, "env", cluster], check=True, capture_output=True, text=True).stdout
    for line in shlex.split(described):
        name, _, value = line.partition("=")
        os.environ[name] = value


# --- the machine --------------------------------------------------------------------------------


def about_machine():
    """(cores and processor, memory in MB); the machine itself is not named."""
    processor, memory = "unknown", 0
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        processor = found.group(1) if found else processor
        memory = int(re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE).group(1)) // 1024
    return f"{os.cpu_count()} cores ({processor})", memory


# --- memory -------------------------------------------------------------------------------------


def memory_of(pid):
    """(private resident memory, peak of resident memory with shared pages) of a process, in bytes."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        raise Failed(f"/proc/{pid}/status cannot be read: memory is measured on the server's own Linux machine only") from None
    return tuple(1024 * int(re.search(rf"^{name}:\s*(\d+) kB", text, re.MULTILINE).group(1)) for name in ("RssAnon", "VmHWM"))


class Session:
    """One session that stays open, so that its backend can be watched."""

    def __init__(self, database, **settings):
        self.psql = subprocess.Popen(
            [program("psql"), "-X", "-q", "-A", "-t", "-d", database],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(**settings),
        )
        self.pid = int(self.run("SELECT pg_backend_pid()")[0])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.psql.communicate()

    def run(self, sql):
        separator = "" if sql.endswith("\\gexec") else ";"
        self.psql.stdin.write(f"{sql}{separator}\n\\echo {MARK}\n")
        self.psql.stdin.flush()
        lines = []
        for line in self.psql.stdout:
            if line.rstrip("\n") == MARK:
                break
            lines.append(line.rstrip("\n"))
        refused = [line for line in lines if line.startswith("ERROR:")]
        if refused or self.psql.poll() is not None:
            raise Failed(complaint("\n".join(lines)))
        return lines

    def peak(self, sql):
        """Runs a statement; the most private memory its backend had meanwhile, and the peak with shared pages, in bytes."""
        seen, done = [memory_of(self.pid)[0]], threading.Event()

        def watch():
            while not done.wait(0.005):
                seen.append(memory_of(self.pid)[0])

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            self.run(sql)
        finally:
            done.set()
            watcher.join()
        return max(seen), memory_of(self.pid)[1]

    def contexts(self):
        """(bytes in memory contexts, contexts) of this session."""
        return [int(part) for part in self.run("SELECT sum(total_bytes), count(*) FROM pg_backend_memory_contexts")[0].split("|")]
