//! Certificate authorities and the certificates of servers, made by `openssl` in a scratch folder.
//!
//! Where there is no `openssl`, tests say so and are skipped; `REQUIRE_SERVERS` (set by CI) makes
//! that a failure.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What the subject of `openssl req` needs, whatever stands in the system's configuration.
const REQUEST: &str = "[req]\ndistinguished_name = name\n[name]\n[authority]\n\
                       basicConstraints = critical, CA:TRUE\n\
                       keyUsage = critical, keyCertSign\n";
/// The names of servers that tests reach.
pub const HERE: &str = "IP:127.0.0.1,DNS:localhost";

/// Signs certificates; its own is in a file.
pub struct Authority {
    dir: tempfile::TempDir,
}

/// A server's certificate with its key, in files that live as long as their authority.
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub authority: PathBuf,
}

impl Authority {
    /// One of this name; `None`, said aloud, without `openssl`.
    pub fn new(name: &str) -> Option<Self> {
        if !Command::new("openssl").arg("version").output().is_ok_and(|it| it.status.success()) {
            assert!(
                std::env::var_os("REQUIRE_SERVERS").is_none(),
                "openssl is required here: scripts/test --install"
            );
            println!("SKIPPED: openssl is not installed: scripts/test --install");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("presume-ca-").tempdir().unwrap();
        std::fs::write(dir.path().join("request.cnf"), REQUEST).unwrap();
        let made = Self { dir };
        made.key("authority.key");
        made.openssl(&format!(
            "req -new -x509 -config request.cnf -extensions authority -days 2 -sha256 \
             -key authority.key -subj /CN={name} -out authority.pem"
        ));
        Some(made)
    }

    /// The file with its certificate.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("authority.pem")
    }

    /// A folder for files of the test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A server's certificate for these names, such as [`HERE`].
    pub fn certify(&self, server: &str, names: &str) -> Identity {
        let extensions = format!(
            "subjectAltName = {names}\nbasicConstraints = critical, CA:FALSE\n\
             extendedKeyUsage = serverAuth\n"
        );
        std::fs::write(self.dir.path().join(format!("{server}.ext")), extensions).unwrap();
        self.key(&format!("{server}.key"));
        self.openssl(&format!(
            "req -new -config request.cnf -key {server}.key -subj /CN={server} -out {server}.csr"
        ));
        self.openssl(&format!(
            "x509 -req -in {server}.csr -CA authority.pem -CAkey authority.key -CAcreateserial \
             -days 2 -sha256 -extfile {server}.ext -out {server}.pem"
        ));
        let file = |ending: &str| self.dir.path().join(format!("{server}.{ending}"));
        Identity { certificate: file("pem"), key: file("key"), authority: self.file() }
    }

    fn key(&self, name: &str) {
        self.openssl(&format!(
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}"
        ));
    }

    fn openssl(&self, arguments: &str) {
        let mut openssl = Command::new("openssl");
        openssl.args(arguments.split_whitespace()).current_dir(self.dir.path());
        let output = openssl.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments}: {text}");
    }
}
