//! A private `PostgreSQL` on a free port, in a scratch folder, stopped when it is dropped.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::certificates::Identity;
use crate::{installed, processes};

/// Whom the package made to run it.
const USER: &str = "postgres";

pub struct PostgresServer {
    dir: tempfile::TempDir,
    bin: PathBuf,
    port: u16,
    settings: Vec<String>,
    child: Option<Child>,
}

impl PostgresServer {
    /// A running server with `max_prepared_transactions` and databases of these names; `None`,
    /// said aloud, where there is none to run.
    pub fn start(prepared_max: u32, databases: &[&str]) -> Option<Self> {
        let Some(bin) = binaries() else {
            installed::missing("PostgreSQL");
            return None;
        };
        let dir = installed::folder("presume-pg-", USER);
        let data = dir.path().join("data");
        let mut initdb = installed::as_user(USER, &bin.join("initdb"));
        initdb.args([
            "-A",
            "trust",
            "-U",
            "presume",
            "-N",
            "-E",
            "UTF8",
            "--no-instructions",
            "-D",
        ]);
        let made = initdb.arg(&data).stdout(Stdio::null()).status().unwrap();
        assert!(made.success(), "initdb failed");
        let port = installed::free_port();
        let settings = vec![format!("max_prepared_transactions={prepared_max}")];
        let mut server = Self { dir, bin, port, settings, child: None };
        server.run();
        for database in databases {
            server.sql("postgres", &format!("CREATE DATABASE \"{database}\""));
        }
        Some(server)
    }

    /// Starts the server again with one more setting.
    pub fn restart_with(&mut self, setting: &str) {
        self.stop();
        self.settings.push(setting.to_owned());
        self.run();
    }

    /// Starts the server again with this certificate. From then on nobody comes in without TLS, and
    /// everybody but the user `presume` needs a password.
    pub fn restart_with_tls(&mut self, identity: &Identity) {
        let data = self.dir.path().join("data");
        let put = |name: &str, content: &[u8]| {
            let file = data.join(name);
            std::fs::write(&file, content).unwrap();
            // The server insists that its key is its own and nobody else's.
            std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
            installed::give(USER, &file);
        };
        put("server.pem", &std::fs::read(&identity.certificate).unwrap());
        put("server.key", &std::fs::read(&identity.key).unwrap());
        put(
            "pg_hba.conf",
            b"hostssl all presume 127.0.0.1/32 trust\n\
              hostssl all all 127.0.0.1/32 scram-sha-256\n",
        );
        self.stop();
        let settings = ["ssl=on", "ssl_cert_file=server.pem", "ssl_key_file=server.key"];
        self.settings.extend(settings.map(str::to_owned));
        self.run();
    }

    /// Runs the server, which is stopped.
    pub fn run(&mut self) {
        let mut postgres = installed::as_user(USER, &self.bin.join("postgres"));
        postgres.arg("-D").arg(self.dir.path().join("data"));
        let port = self.port.to_string();
        let sockets = format!("unix_socket_directories={}", self.dir.path().display());
        postgres.args(["-p", &port, "-c", "listen_addresses=127.0.0.1", "-c", &sockets]);
        postgres.args(["-c", "logging_collector=off", "-c", "max_connections=200"]);
        for setting in &self.settings {
            postgres.args(["-c", setting]);
        }
        self.child = Some(installed::start(postgres, self.dir.path()));
        installed::wait_for("PostgreSQL", self.dir.path(), || self.answers());
    }

    /// Stops at once, as a power cut does: open transactions are lost, prepared ones are not.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        processes::resume(child.id());
        let stopped = installed::as_user(USER, &self.bin.join("pg_ctl"))
            .args(["-m", "immediate", "-w", "stop", "-D"])
            .arg(self.dir.path().join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !stopped.is_ok_and(|status| status.success()) {
            let _ = child.kill();
        }
        let _ = child.wait();
    }

    /// Stops its processes, which answer nothing until [`Self::resume`].
    pub fn pause(&self) {
        processes::pause(self.child.as_ref().unwrap().id());
    }

    /// Lets them go on.
    pub fn resume(&self) {
        processes::resume(self.child.as_ref().unwrap().id());
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A URL of one of its databases.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://presume@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Runs SQL and answers what `psql` prints, unaligned.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        installed::printed(self.psql(database, sql), sql)
    }

    fn psql(&self, database: &str, sql: &str) -> Command {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-h", "127.0.0.1", "-U", "presume", "-X", "-q", "-A", "-t", "-p"]);
        psql.arg(self.port.to_string()).args(["-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]);
        psql
    }

    fn answers(&self) -> bool {
        self.psql("postgres", "SELECT 1").output().is_ok_and(|output| output.status.success())
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The newest installed server's folder of programs.
fn binaries() -> Option<PathBuf> {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = installed.map(|entry| entry.path().join("bin")).collect();
    found.sort();
    let elsewhere = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    found.into_iter().rev().chain(elsewhere).find(|bin| {
        ["initdb", "postgres", "pg_ctl", "psql"].iter().all(|program| bin.join(program).is_file())
    })
}
