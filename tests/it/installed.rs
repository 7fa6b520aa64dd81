//! Database servers that are installed here, for tests to run privately in scratch folders.
//!
//! They refuse to run as root: then each runs as the user that its package made. Where one is not
//! installed, tests say so and are skipped; `REQUIRE_SERVERS` (set by CI) makes that a failure.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Generous: the machine may be busy.
const START_MAX: Duration = Duration::from_mins(1);

/// Says that a server is not installed, and fails where it must be.
pub fn missing(server: &str) {
    assert!(
        std::env::var_os("REQUIRE_SERVERS").is_none(),
        "{server} is required here: scripts/test --install"
    );
    println!("SKIPPED: {server} is not installed: scripts/test --install");
}

/// A scratch folder that belongs to the server's user.
pub fn folder(prefix: &str, user: &str) -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix(prefix).tempdir().unwrap();
    give(user, dir.path());
    dir
}

/// Makes a file or folder that of the server's user.
pub fn give(user: &str, path: &Path) {
    if is_root() {
        let owned = Command::new("chown").arg(user).arg(path).status();
        assert!(owned.unwrap().success());
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A program of a server, to be run as its user.
pub fn as_user(user: &str, program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={user}")).arg(format!("--regid={user}"));
    command.arg("--clear-groups").arg(program);
    command
}

/// Starts a server, which writes its log into `dir`.
pub fn start(mut server: Command, dir: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(log_of(dir));
    server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.unwrap());
    server.spawn().unwrap()
}

/// Waits until a server that was started answers.
pub fn wait_for(server: &str, dir: &Path, answers: impl Fn() -> bool) {
    let started = Instant::now();
    while !answers() {
        let log = || std::fs::read_to_string(log_of(dir)).unwrap_or_default();
        assert!(started.elapsed() < START_MAX, "{server} does not start: {}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn log_of(dir: &Path) -> PathBuf {
    dir.join("server.log")
}

/// What a client prints that runs `sql`, which must go well.
pub fn printed(mut client: Command, sql: &str) -> String {
    let output = client.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    assert!(output.status.success(), "{sql}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}
