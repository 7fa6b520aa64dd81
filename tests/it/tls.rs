//! Participants over TLS, against real servers: whom they trust, and what they refuse.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use presume::participants::http::conform::{self, Outcome};
use presume::participants::http::{self, Http};
use presume::participants::mysql::{self, Mysql};
use presume::participants::postgres::{self, Postgres};
use presume::participants::{Ack, ClaimError, OperationSql, Participant};
use presume::txn::{Epoch, Operation, OperationName, Vote};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::branches::{gid, log};
use crate::certificates::{Authority, HERE, Identity};
use crate::mysql_server::MysqlServer;
use crate::postgres_server::PostgresServer;
use crate::wallet_server::{WalletServer, options};

const PASSWORD: &str = "swordfish";

fn credit(amount: u64) -> Operation {
    Operation {
        participant: "bank".parse().unwrap(),
        operation: "credit".parse().unwrap(),
        params: serde_json::from_value(json!({"account": "a", "amount": amount})).unwrap(),
    }
}

fn operations(sql: &str) -> BTreeMap<OperationName, OperationSql> {
    let sql = OperationSql::new(sql, Some(1));
    BTreeMap::from([("credit".parse().unwrap(), sql)])
}

/// One branch in two phases and one in one, which is all that a session does.
async fn takes_part(participant: &dyn Participant) {
    participant.claim_epoch(log(), Epoch(1)).await.unwrap();
    assert_eq!(participant.prepare(gid(1), &[credit(1)]).await, Vote::Yes);
    assert_eq!(participant.list_prepared().await.unwrap().branches, [gid(1)]);
    assert_eq!(participant.commit(gid(1)).await, Ack::Done);
    assert_eq!(participant.commit_one_phase(gid(2), &[credit(1)]).await, Vote::Yes);
}

/// Why a participant cannot be claimed, which must not tell its password.
async fn refusal(participant: &dyn Participant) -> String {
    let error = participant.claim_epoch(log(), Epoch(1)).await.unwrap_err();
    assert!(matches!(error, ClaimError::Unreachable { .. }), "{error:?}");
    let error = error.to_string();
    assert!(!error.contains(PASSWORD), "{error}");
    error
}

const STRANGER: &str = "it cannot be reached: the server's certificate leads to none that is \
                        trusted (those of tls_ca, else the system's)";

fn teller(port: u16, query: &str, ca: Option<PathBuf>) -> postgres::Options {
    let sql = "UPDATE accounts SET balance = balance + $amount WHERE id = $account";
    let url = format!("postgres://teller:{PASSWORD}@127.0.0.1:{port}/bank{query}");
    let mut options = postgres::Options::new(url, operations(sql));
    options.listening_horizon = Duration::from_secs(5);
    options.tls_ca = ca;
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_takes_part_over_tls_and_a_server_that_is_not_trusted_does_not() {
    let Some(authority) = Authority::new("ours") else { return };
    let other = Authority::new("other").unwrap();
    let Some(mut server) = PostgresServer::start(8, &["bank"]) else { return };
    server.restart_with_tls(&authority.certify("bank", HERE));
    server.sql(
        "bank",
        &format!(
            "CREATE ROLE teller LOGIN PASSWORD '{PASSWORD}'; ALTER DATABASE bank OWNER TO teller; \
             CREATE TABLE accounts (id text PRIMARY KEY, balance bigint); \
             ALTER TABLE accounts OWNER TO teller; INSERT INTO accounts VALUES ('a', 100)"
        ),
    );
    let port = server.port();
    let made = |query: &str, ca: Option<PathBuf>| Postgres::new(teller(port, query, ca)).unwrap();
    let ca = Some(authority.file());

    let bank = made("?sslmode=verify-full", ca.clone());
    bank.init().await.unwrap();
    takes_part(&bank).await;
    assert_eq!(server.sql("bank", "SELECT balance FROM accounts"), "102");
    let ours = "SELECT DISTINCT ssl, version FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                WHERE application_name LIKE 'presume:%'";
    assert_eq!(server.sql("bank", ours), "t|TLSv1.3");
    assert!(bank.check().await.unwrap().iter().all(|finding| finding.ok));
    // `require` is the same, and so is a CA alone.
    for query in ["?sslmode=require", "", "?connect_timeout=3&sslmode=require"] {
        made(query, ca.clone()).check().await.unwrap();
    }

    let plain = refusal(&made("?sslmode=disable", None)).await;
    assert!(plain.contains("no encryption (28000)"), "{plain}");
    assert_eq!(refusal(&made("?sslmode=require", Some(other.file()))).await, STRANGER);
    let namesake = Authority::new("ours").unwrap();
    let error = refusal(&made("?sslmode=require", Some(namesake.file()))).await;
    assert!(error.contains("is tls_ca an older one?"), "{error}");
    server.restart_with_tls(&authority.certify("elsewhere", "DNS:bank.example,IP:192.0.2.1"));
    let wrong = refusal(&made("?sslmode=require", ca.clone())).await;
    let names = ["for DnsName(\"bank.example\"), ", ", not for 127.0.0.1"];
    assert!(names.iter().all(|name| wrong.contains(name)), "{wrong}");
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_does_not_fall_back_to_plain_text() {
    let Some(authority) = Authority::new("ours") else { return };
    // A server without TLS, as whoever stands between could pretend.
    let Some(server) = PostgresServer::start(8, &["bank"]) else { return };
    let ca = Some(authority.file());
    for query in ["?sslmode=require", "?sslmode=verify-full", ""] {
        let made = Postgres::new(teller(server.port(), query, ca.clone())).unwrap();
        let error = refusal(&made).await;
        assert!(error.contains("server does not support TLS"), "{query}: {error}");
    }
}

#[test]
fn a_postgres_url_that_is_weaker_than_it_looks_is_refused_at_once() {
    let new = |url: &str, ca: Option<&str>| {
        let mut options = postgres::Options::new(url, BTreeMap::new());
        options.tls_ca = ca.map(PathBuf::from);
        Postgres::new(options).map(drop).map_err(|error| error.to_string())
    };
    for query in ["sslmode=prefer", "a=b&sslmode=allow", "sslmode=verify-ca", "sslmode="] {
        let error = new(&format!("postgres://u:{PASSWORD}@db1/bank?{query}"), None).unwrap_err();
        assert!(error.contains("can be disable, require or verify-full"), "{query}: {error}");
        assert!(!error.contains(PASSWORD), "{error}");
    }
    let url = format!("postgres://u:{PASSWORD}?@db1/bank");
    let error = new(&format!("{url}?sslrootcert=ca.pem"), None).unwrap_err();
    assert!(error.contains("tls_ca stands for sslrootcert"), "{error}");
    let error = new(&format!("{url}?sslmode=disable"), Some("ca.pem")).unwrap_err();
    assert_eq!(error, "url: it asks for plain text, and tls_ca is set");
    assert_eq!(new(&format!("{url}?sslmode=disable"), None), Ok(()));
    assert_eq!(new(&url.replace("db1", "127.0.0.1"), None), Ok(()));
}

fn clerk(port: u16, query: &str, ca: Option<PathBuf>) -> mysql::Options {
    // What the session was read with stands in the books.
    let sql = "UPDATE accounts SET balance = balance + $amount, \
               cipher = (SELECT VARIABLE_VALUE FROM information_schema.session_status \
               WHERE VARIABLE_NAME = 'SSL_VERSION') WHERE id = $account";
    let url = format!("mysql://presume:secret@127.0.0.1:{port}/bank{query}");
    let mut options = mysql::Options::new(url, operations(sql));
    options.listening_horizon = Duration::from_secs(5);
    options.tls_ca = ca;
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_takes_part_over_tls_and_a_server_that_is_not_trusted_does_not() {
    let Some(authority) = Authority::new("ours") else { return };
    let other = Authority::new("other").unwrap();
    let Some(mut server) = MysqlServer::start() else { return };
    server.sql(
        "CREATE TABLE accounts (id VARCHAR(32) PRIMARY KEY, balance BIGINT, cipher TEXT); \
         INSERT INTO accounts VALUES ('a', 100, NULL)",
    );
    let ca = Some(authority.file());
    let port = server.port();
    let made = |query: &str, ca: Option<PathBuf>| Mysql::new(clerk(port, query, ca)).unwrap();
    let said = async |query: &str, ca: Option<PathBuf>| {
        let error = refusal(&made(query, ca)).await;
        assert!(!error.contains("secret"), "{error}");
        error
    };

    // The server has no TLS yet, as whoever stands between could pretend.
    for query in ["", "?require_ssl=true"] {
        let error = said(query, ca.clone()).await;
        assert!(error.contains("server does not have this capability"), "{error}");
    }

    server.restart_with_tls(&authority.certify("bank", HERE));
    let bank = made("?require_ssl=true", ca.clone());
    bank.init().await.unwrap();
    takes_part(&bank).await;
    assert_eq!(server.sql("SELECT balance, cipher FROM accounts"), "102\tTLSv1.3");
    assert!(bank.check().await.unwrap().iter().all(|finding| finding.ok));
    // So is a CA alone.
    made("", ca.clone()).check().await.unwrap();

    let plain = said("?require_ssl=false", None).await;
    assert!(plain.contains("Access denied for user 'presume'"), "{plain}");
    assert_eq!(said("?require_ssl=true", Some(other.file())).await, STRANGER);
    server.restart_with_tls(&authority.certify("elsewhere", "DNS:bank.example"));
    let wrong = said("?require_ssl=true", ca).await;
    assert!(wrong.contains("DnsName(\"bank.example\"), not for 127.0.0.1"), "{wrong}");
}

#[test]
fn a_mysql_url_that_is_weaker_than_it_looks_is_refused_at_once() {
    let new = |query: &str, ca: Option<&str>| {
        let url = format!("mysql://u:{PASSWORD}@db1/bank{query}");
        let mut options = mysql::Options::new(url, BTreeMap::new());
        options.tls_ca = ca.map(PathBuf::from);
        Mysql::new(options).map(drop).map_err(|error| error.to_string())
    };
    for name in ["verify_ca", "verify_identity", "built_in_roots"] {
        let error = new(&format!("?require_ssl=true&{name}=false"), None).unwrap_err();
        assert!(error.starts_with(&format!("url: {name} cannot be chosen")), "{error}");
        assert!(!error.contains(PASSWORD), "{error}");
    }
    let error = new("?require_ssl=false", Some("ca.pem")).unwrap_err();
    assert_eq!(error, "url: it asks for plain text, and tls_ca is set");
    assert_eq!(new("?require_ssl=false", None), Ok(()));
}

/// Ends TLS before a service that has none; answers the URL.
async fn tls_before(service: &WalletServer, identity: &Identity) -> String {
    let chain = CertificateDer::pem_file_iter(&identity.certificate).unwrap();
    let chain = chain.collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let upstream = service.url().strip_prefix("http://").unwrap().to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (acceptor, upstream) = (acceptor.clone(), upstream.clone());
            tokio::spawn(async move {
                // A client that does not trust us goes away.
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut service = TcpStream::connect(upstream).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut service).await;
            });
        }
    });
    url
}

fn https(url: &str, ca: Option<PathBuf>) -> http::Options {
    let mut options = options(url);
    options.tls_ca = ca;
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_takes_part_over_https_and_one_that_is_not_trusted_does_not() {
    let Some(authority) = Authority::new("ours") else { return };
    let other = Authority::new("other").unwrap();
    let service = WalletServer::start(&[("a", 100)], &[]);
    let url = tls_before(&service, &authority.certify("wallet", HERE)).await;
    let ca = Some(authority.file());
    let made = |url: &str, ca: Option<PathBuf>| Http::new(&https(url, ca)).unwrap();

    let wallet = made(&url, ca.clone());
    takes_part(&wallet).await;
    assert_eq!(service.account("a").await, (102, 0, 0));
    let findings = wallet.check().await.unwrap();
    assert!(findings.iter().all(|finding| finding.ok), "{findings:?}");
    let transport = findings.iter().find(|finding| finding.what == "transport").unwrap();
    assert!(transport.to_string().contains("https, requests signed"), "{transport}");
    // By the other name in the certificate, too.
    made(&url.replace("127.0.0.1", "localhost"), ca.clone()).check().await.unwrap();

    let step = |name: &str| json!({"operation": name, "params": {"account": "t", "amount": 1}});
    let sample = json!({"give": step("credit"), "take": step("debit")});
    let sample = serde_json::from_value(sample).unwrap();
    let pause = Duration::from_millis(100);
    let checks = conform::Options { service: https(&url, ca.clone()), sample, pause };
    let report = conform::run(&checks, |_| {}).await.unwrap();
    let failed = report.iter().filter(|checked| matches!(checked.outcome, Outcome::Failed(_)));
    assert_eq!(failed.count(), 0, "{report:#?}");
    assert!(report.len() > 20, "{report:#?}");

    assert_eq!(refusal(&made(&url, Some(other.file()))).await, STRANGER);
    let elsewhere = authority.certify("elsewhere", "DNS:wallet.example");
    let wrong = refusal(&made(&tls_before(&service, &elsewhere).await, ca.clone())).await;
    assert!(wrong.contains("DnsName(\"wallet.example\"), not for 127.0.0.1"), "{wrong}");
    let plain = refusal(&made(&service.url().replace("http:", "https:"), ca.clone())).await;
    assert!(plain.ends_with("the server does not speak TLS there"), "{plain}");
    let error = Http::new(&https(&service.url(), ca)).err().unwrap().to_string();
    assert_eq!(error, "url: it asks for plain text, and tls_ca is set");
    let error = Http::new(&https("http://wallet.example", None)).err().unwrap().to_string();
    assert!(error.contains("use https"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_cannot_be_read_is_refused_by_its_name_when_a_participant_is_made() {
    let Some(authority) = Authority::new("ours") else { return };
    let identity = authority.certify("bank", HERE);
    let put = |name: &str, content: &[u8]| {
        let file = authority.dir().join(name);
        std::fs::write(&file, content).unwrap();
        file
    };
    let whole = std::fs::read(authority.file()).unwrap();
    let half = [&whole[..whole.len() / 2], b"\n-----END CERTIFICATE-----\n"].concat();
    let faults = [
        (authority.dir().join("missing.pem"), "No such file"),
        (put("words.pem", b"no certificate"), "holds no certificate in PEM"),
        (identity.key, "holds no certificate in PEM"),
        (put("half.pem", &half), "half.pem: "),
        (put("second.pem", &[&whole[..], &half[..]].concat()), "second.pem: "),
    ];
    let refused = |file: &Path| {
        let (url, ca) = (format!("://u:{PASSWORD}@127.0.0.1/bank"), Some(file.to_owned()));
        let mut postgres = postgres::Options::new(format!("postgres{url}"), BTreeMap::new());
        postgres.tls_ca.clone_from(&ca);
        let mut mysql = mysql::Options::new(format!("mysql{url}"), BTreeMap::new());
        mysql.tls_ca.clone_from(&ca);
        [
            Postgres::new(postgres).err().unwrap().to_string(),
            Mysql::new(mysql).err().unwrap().to_string(),
            Http::new(&https("https://127.0.0.1", ca)).err().unwrap().to_string(),
        ]
    };
    for (file, why) in faults {
        let begins = format!("tls: {}", file.display());
        for error in refused(&file) {
            assert!(error.starts_with(&begins) && error.contains(why), "{why}: {error}");
            assert!(!error.contains(PASSWORD), "{error}");
        }
    }
}
