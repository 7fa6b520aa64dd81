//! A private `MariaDB` on a free port, in a scratch folder, killed when it is dropped.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::certificates::Identity;
use crate::{installed, processes};

/// Whom the package made to run it.
const USER: &str = "mysql";
const PROGRAMS: [&str; 3] = ["mariadb-install-db", "mariadbd", "mariadb"];
/// Small files, so that a server is made and started quickly.
const SMALL: [&str; 2] = ["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M"];

pub struct MysqlServer {
    dir: tempfile::TempDir,
    _template: Arc<tempfile::TempDir>,
    port: u16,
    settings: Vec<String>,
    child: Option<Child>,
}

/// A session of somebody else, until it is dropped: then its client is killed.
pub struct OtherSession {
    client: Child,
    input: Option<ChildStdin>,
}

impl MysqlServer {
    /// A running server with a database `bank`, which belongs to the user of [`Self::url`];
    /// `None`, said aloud, where there is none to run.
    pub fn start() -> Option<Self> {
        if PROGRAMS.iter().any(|name| program(name).is_none()) {
            installed::missing("MariaDB");
            return None;
        }
        let dir = folder();
        let template = template();
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(template.path().join("data")).arg(dir.path());
        assert!(copy.status().unwrap().success());
        let port = installed::free_port();
        let mut server = Self { dir, _template: template, port, settings: Vec::new(), child: None };
        server.run();
        server.root(
            "CREATE DATABASE bank; CREATE USER presume@'127.0.0.1' IDENTIFIED BY 'secret'; \
             GRANT ALL ON bank.* TO presume@'127.0.0.1'",
        );
        Some(server)
    }

    /// Starts the server again with one more setting.
    pub fn restart_with(&mut self, setting: &str) {
        self.stop();
        self.settings.push(setting.to_owned());
        self.run();
    }

    /// Starts the server again with this certificate. From then on its user needs TLS.
    pub fn restart_with_tls(&mut self, identity: &Identity) {
        let put = |name: &str, from: &Path| {
            let file = self.dir.path().join(name);
            std::fs::copy(from, &file).unwrap();
            std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
            installed::give(USER, &file);
            file.display().to_string()
        };
        let certificate = put("server.pem", &identity.certificate);
        let key = put("server.key", &identity.key);
        let authority = put("authority.pem", &identity.authority);
        self.root("ALTER USER presume@'127.0.0.1' REQUIRE SSL");
        self.stop();
        self.settings.push(format!("--ssl-cert={certificate}"));
        self.settings.push(format!("--ssl-key={key}"));
        self.settings.push(format!("--ssl-ca={authority}"));
        self.run();
    }

    /// Runs the server, which is stopped.
    pub fn run(&mut self) {
        let mut server = as_user("mariadbd");
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        server.arg("--no-defaults").arg(data_of(self.dir.path())).args(SMALL);
        server.args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--max-connections=200"]);
        server.arg(format!("--port={}", self.port));
        server.arg(format!("--socket={}", path("socket")));
        server.arg(format!("--pid-file={}", path("pid")));
        server.args(&self.settings);
        self.child = Some(installed::start(server, self.dir.path()));
        installed::wait_for("MariaDB", self.dir.path(), || self.try_sql("SELECT 1"));
    }

    /// Kills it with signal 9: open transactions are lost, prepared ones are not.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Stops its process, which answers nothing until [`Self::resume`].
    pub fn pause(&self) {
        processes::pause(self.child.as_ref().unwrap().id());
    }

    /// Lets it go on.
    pub fn resume(&self) {
        processes::resume(self.child.as_ref().unwrap().id());
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of its database.
    pub fn url(&self) -> String {
        format!("mysql://presume:secret@127.0.0.1:{}/bank", self.port)
    }

    /// Runs SQL in the database as an administrator; rows are lines, columns have tabs between.
    pub fn sql(&self, sql: &str) -> String {
        self.root(&format!("USE bank; {sql}"))
    }

    /// The same, where it may be refused.
    pub fn try_sql(&self, sql: &str) -> bool {
        self.client().args(["-e", sql]).output().unwrap().status.success()
    }

    /// A session that ran this SQL and stays.
    pub fn other_session(&self, sql: &str) -> OtherSession {
        let mut client = self.client();
        client.args(["-n", "bank"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = client.spawn().unwrap();
        let mut input = client.stdin.take().unwrap();
        writeln!(input, "{sql}; SELECT 'done';").unwrap();
        let output = client.stdout.as_mut().unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(output));
        assert!(lines.any(|line| line.unwrap() == "done"), "{sql}");
        OtherSession { client, input: Some(input) }
    }

    fn root(&self, sql: &str) -> String {
        let mut client = self.client();
        client.args(["-e", sql]);
        installed::printed(client, sql)
    }

    fn client(&self) -> Command {
        let mut client = Command::new(program("mariadb").unwrap());
        client.args(["--no-defaults", "-u", "root", "-N", "-B", "-S"]);
        client.arg(self.dir.path().join("socket"));
        client
    }
}

impl Drop for MysqlServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Drop for OtherSession {
    fn drop(&mut self) {
        let _ = self.client.kill();
        drop(self.input.take());
        let _ = self.client.wait();
    }
}

/// A fresh data folder to copy, made once for the servers that live at a time: making one takes
/// longer than starting it.
fn template() -> Arc<tempfile::TempDir> {
    static MADE: Mutex<Weak<tempfile::TempDir>> = Mutex::new(Weak::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(template) = made.upgrade() {
        return template;
    }
    let dir = folder();
    let mut install = as_user("mariadb-install-db");
    install.arg("--no-defaults").arg(data_of(dir.path()));
    install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]).args(SMALL);
    let output = install.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "mariadb-install-db: {text}");
    let template = Arc::new(dir);
    *made = Arc::downgrade(&template);
    template
}

fn folder() -> tempfile::TempDir {
    installed::folder("presume-my-", USER)
}

fn data_of(dir: &Path) -> String {
    format!("--datadir={}", dir.join("data").display())
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn as_user(name: &str) -> Command {
    installed::as_user(USER, &program(name).unwrap())
}
