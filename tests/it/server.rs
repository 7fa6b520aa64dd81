//! A `presume serve` process of a test's own, on a free port, killed when dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a start may take before the test gives up: generous, the machine may be busy.
const START_MAX: Duration = Duration::from_mins(1);

pub struct Served {
    child: Child,
    pub url: String,
}

impl Served {
    /// Starts a server on `data` with more flags, and waits until it answers.
    pub fn start(data: &Path, flags: &[&str]) -> Self {
        Self::start_on(0, data, flags)
    }

    /// The same on a port; 0 is a free one.
    pub fn start_on(port: u16, data: &Path, flags: &[&str]) -> Self {
        let port_file = data.join("port");
        let _ = std::fs::remove_file(&port_file);
        let child = command()
            .arg("serve")
            .args(["--address", &format!("127.0.0.1:{port}"), "--port-file"])
            .arg(&port_file)
            .arg("--data-dir")
            .arg(data.join("data"))
            .args(flags)
            .current_dir(data)
            .stdout(Stdio::null())
            .stderr(Stdio::from(log_file(data)))
            .spawn()
            .unwrap();
        let mut served = Self { child, url: String::new() };
        let started = Instant::now();
        loop {
            if let Ok(port) = std::fs::read_to_string(&port_file) {
                served.url = format!("http://127.0.0.1:{}", port.trim());
                return served;
            }
            if let Some(status) = served.child.try_wait().unwrap() {
                let log = std::fs::read_to_string(data.join("serve.log")).unwrap_or_default();
                panic!("the server ended with {status}:\n{log}");
            }
            assert!(started.elapsed() < START_MAX, "the server did not start");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs it where it must refuse to start: what it said.
    pub fn refused(data: &Path) -> String {
        let said = data.join("refused.log");
        let mut child = command()
            .arg("serve")
            .args(["--address", "127.0.0.1:0", "--data-dir"])
            .arg(data.join("data"))
            .current_dir(data)
            .stdout(Stdio::null())
            .stderr(Stdio::from(std::fs::File::create(&said).unwrap()))
            .spawn()
            .unwrap();
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if started.elapsed() > START_MAX {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("it does not refuse: {}", std::fs::read_to_string(said).unwrap());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let said = std::fs::read_to_string(said).unwrap();
        assert!(!status.success(), "it started, and stopped by itself: {said}");
        said
    }

    /// A number of `/metrics`.
    pub async fn metric(&self, name: &str) -> u64 {
        let response = reqwest::get(format!("{}/metrics", self.url)).await.unwrap();
        let text = response.text().await.unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: as a power cut, but for what the kernel has already taken.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(mut self) -> std::process::ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary under test.
pub fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_presume"))
}

/// The folder of the checkout, with `models/` and `data/`.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn log_file(data: &Path) -> std::fs::File {
    let path = data.join("serve.log");
    std::fs::File::options().create(true).append(true).open(path).unwrap()
}
