//! A server of a test's own, for what must not happen to the shared one: crashes, restores, restarts.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{Address, unique};

/// PostgreSQL refuses to run as root, so its programs then run as the user who runs the shared server.
pub fn server_program(name: &str) -> Command {
    program_of(&own_programs(), name)
}

/// The program folder of the server under test.
pub fn own_programs() -> String {
    std::env::var("PGBIN").expect("set PGBIN to the server's program folder")
}

fn program_of(bin: &str, name: &str) -> Command {
    as_server_user(&format!("{bin}/{name}"))
}

fn as_server_user(program: &str) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", &server_user(), "--", program]);
        command
    } else {
        Command::new(program)
    };
    // A backtrace in DETAIL would differ by machine.
    command.env_remove("RUST_BACKTRACE").current_dir("/");
    command
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    id.stdout.trim_ascii() == b"0"
}

/// As `tests/tools/cluster env` says.
fn server_user() -> String {
    std::env::var("THREADLINE_SERVER_USER").unwrap_or_else(|_| "postgres".into())
}

/// Runs a client program against a database, `input` on its standard input.
pub fn client_program(name: &str, at: &Address, database: &str, args: &[&str], input: &[u8]) -> Output {
    let mut child = server_program(name)
        .args(["-h", &at.socket_dir, "-p", &at.port.to_string(), "-U", &at.user, "-d", database])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot run {name}: {e}"));
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let input = input.to_vec();
    // A thread of its own: a program that answers while it reads would otherwise block on a full pipe.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("the program ends");
    // A program that stops at an error closes its input early; its exit status says so.
    let _ = writer.join().expect("the writer thread ends");
    output
}

/// As `client_program`, failing the test unless the program succeeds.
pub fn client_output(name: &str, at: &Address, database: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let output = client_program(name, at, database, args, input);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !errors.contains("error:"), "{name} {args:?} on {database}: {errors}");
    output.stdout
}

pub struct Cluster {
    /// The program folder of its server.
    programs: String,
    folder: PathBuf,
    options: String,
    pub at: Address,
}

impl Cluster {
    /// `settings` as in postgresql.conf, `name=value`.
    pub fn start(stem: &str, settings: &[&str]) -> Self {
        let cluster = Self::make(&own_programs(), stem, settings);
        cluster.up();
        cluster
    }

    /// Made by the programs in a folder, and not started.
    pub fn make(programs: &str, stem: &str, settings: &[&str]) -> Self {
        let cluster = Self::without_data(programs, stem, settings);
        // Checksums are PostgreSQL 18's default, and pg_upgrade wants both clusters to have them or neither.
        let made = program_of(programs, "initdb")
            .args([
                "-D",
                &cluster.data(),
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
                "-k",
            ])
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        cluster
    }

    /// A hot standby that follows a running server.
    pub fn standby_of(primary: &Cluster, stem: &str) -> Self {
        let standby = Self::without_data(&primary.programs, stem, &[]);
        let copied = program_of(&primary.programs, "pg_basebackup")
            .args(["-h", &primary.at.socket_dir, "-p", &primary.at.port.to_string(), "-U", &primary.at.user])
            .args(["-D", &standby.data(), "-c", "fast", "--write-recovery-conf", "--no-sync"])
            .output()
            .expect("pg_basebackup runs");
        assert!(copied.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&copied.stderr));
        standby.up();
        standby
    }

    fn without_data(programs: &str, stem: &str, settings: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(unique(stem));
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        if is_root() {
            let done = Command::new("chown").arg(server_user()).arg(&folder).status().expect("chown runs");
            assert!(done.success(), "cannot give {} to {}", folder.display(), server_user());
        }
        let socket_dir = folder.display().to_string();
        // kill -9 leaves what the kernel was given, so fsync may stay off even for the crash tests.
        // The port too: PGPORT of the environment would win over the default.
        let mut options =
            format!("-c listen_addresses= -c port=5432 -c fsync=off -c unix_socket_directories={socket_dir}");
        for setting in settings {
            options.push_str(&format!(" -c {setting}"));
        }
        let at = Address { socket_dir, port: 5432, user: "postgres".into() };
        Cluster { programs: programs.into(), at, folder, options }
    }

    /// Takes over everything of a cluster of the same or an older version. Neither may run.
    pub fn upgrade_from(&self, old: &Cluster) {
        let done = program_of(&self.programs, "pg_upgrade")
            .args(["-b", &old.programs, "-B", &self.programs, "-d", &old.data(), "-D", &self.data(), "-U", "postgres"])
            .args(["-s", &self.at.socket_dir])
            .current_dir(&self.folder)
            .output()
            .expect("pg_upgrade runs");
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "pg_upgrade: {out}\n{err}");
    }

    pub fn down(&self) {
        assert!(self.pg_ctl(&["-m", "fast", "stop"]), "the server does not stop: {}", self.log());
    }

    fn data(&self) -> String {
        self.folder.join("data").display().to_string()
    }

    fn pg_ctl(&self, args: &[&str]) -> bool {
        let log = self.folder.join("log").display().to_string();
        program_of(&self.programs, "pg_ctl")
            .args(["-D", &self.data(), "-l", &log, "-w", "-s"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("pg_ctl runs")
            .success()
    }

    /// Starts the server; after a kill the old shared memory may take a moment to be let go.
    pub fn up(&self) {
        let give_up = Instant::now() + Duration::from_secs(60);
        while !self.pg_ctl(&["-o", &self.options, "start"]) {
            assert!(Instant::now() < give_up, "the server does not start: {}", self.log());
            sleep(Duration::from_millis(200));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn postmaster(&self) -> u32 {
        let first = fs::read_to_string(self.folder.join("data/postmaster.pid")).expect("the server runs");
        first.lines().next().and_then(|l| l.trim().parse().ok()).expect("postmaster.pid starts with a pid")
    }

    /// How large a file may get that sessions begun from now on write, in bytes or "unlimited": what a full disk is like.
    pub fn limit_files(&self, limit: &str) {
        let (pid, limit) = (format!("--pid={}", self.postmaster()), format!("--fsize={limit}:"));
        assert!(as_server_user("prlimit").args([pid, limit]).status().expect("prlimit runs").success());
    }

    /// kill -9 of the postmaster and of every process it started.
    pub fn kill(&self) {
        let postmaster = self.postmaster();
        let mut pids = children(postmaster);
        pids.insert(0, postmaster);
        let list: Vec<String> = pids.iter().map(u32::to_string).collect();
        // The shell's own kill: a bare machine has no other. Children may have ended between listing and killing.
        let _ = Command::new("sh").args(["-c", "kill -9 \"$@\"", "kill"]).args(&list).stderr(Stdio::null()).status();
    }
}

fn children(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|ppid| ppid.trim() == parent.to_string()))
    };
    let entries = fs::read_dir("/proc").expect("/proc is there").filter_map(|entry| entry.ok());
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.folder.join("data/postmaster.pid").exists() {
            self.pg_ctl(&["-m", "immediate", "stop"]);
        }
        if std::thread::panicking() {
            eprintln!("kept for inspection: {}", self.folder.display());
        } else {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}
