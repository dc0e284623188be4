//! `cxtpctl pki` and `order`: files with the right rights, certificates that
//! rustls and webpki accept, orders that verify, and no key on any screen.
#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod ctl_support;

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
};

use cxtp::service::{
    api::{Line, Request},
    seal::{PublicSealKey, SealKey},
};
use protocol_spec::{codec, token::Order};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};
use serde_json::json;

use ctl_support::{FakeDaemon, id, init, issue, pki, run, unhex};

fn mode(dir: &Path, file: &str) -> u32 {
    fs::metadata(dir.join(file)).unwrap().permissions().mode() & 0o7777
}

fn key(dir: &Path, file: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(dir.join(file)).unwrap()
}

fn certificate(dir: &Path, file: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(dir.join(file)).unwrap()
}

#[test]
fn private_files_are_private_and_public_ones_are_not_more_than_that() {
    let dir = pki();
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = [
        "a.key",
        "a.pem",
        "a.seal.key",
        "a.seal.pub",
        "b.key",
        "b.pem",
        "b.seal.key",
        "b.seal.pub",
        "ca.key",
        "ca.pem",
        "noc.key",
        "noc.order.key",
        "noc.order.pub",
        "noc.pem",
        "phone.key",
        "phone.pem",
    ];
    assert_eq!(names, expected);
    for name in expected {
        let private = name.ends_with(".key");
        assert_eq!(mode(dir.path(), name), if private { 0o600 } else { 0o644 }, "{name}");
    }
    let fresh = dir.path().join("deeper/pki");
    assert_eq!(init(&fresh).code, 0);
    assert_eq!(mode(&fresh, "."), 0o700);
}

#[test]
fn json_names_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    let json = run(["pki", "init", "--dir", at, "--days", "7", "--json"]).json();
    let files = json!([format!("{at}/ca.pem"), format!("{at}/ca.key")]);
    assert_eq!(json, json!({"dir": at, "days": 7, "files": files, "exit": 0}));
    let json = run(["pki", "issue", "--dir", at, "client", "phone", "--json"]).json();
    assert_eq!((&json["identity"], &json["days"]), (&json!("cxtp://client/phone"), &json!(30)));
    assert_eq!(json["files"], json!([format!("{at}/phone.pem"), format!("{at}/phone.key")]));
}

#[test]
fn certificates_carry_the_identity_and_verify_for_both_directions() {
    let dir = pki();
    let ca = certificate(dir.path(), "ca.pem");
    let anchor = webpki_anchor(&ca);
    for (file, uri) in [
        ("a.pem", "cxtp://gateway/a"),
        ("noc.pem", "cxtp://controller/noc"),
        ("phone.pem", "cxtp://client/phone"),
    ] {
        let der = certificate(dir.path(), file);
        let parsed = webpki::EndEntityCert::try_from(&der).unwrap();
        assert_eq!(parsed.valid_uri_names().collect::<Vec<_>>(), [uri]);
        for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
            parsed
                .verify_for_usage(
                    webpki::ALL_VERIFICATION_ALGS,
                    std::slice::from_ref(&anchor),
                    &[],
                    rustls::pki_types::UnixTime::now(),
                    usage,
                    None,
                    None,
                )
                .unwrap();
        }
    }
}

fn webpki_anchor(ca: &CertificateDer<'static>) -> rustls::pki_types::TrustAnchor<'static> {
    webpki::anchor_from_trusted_cert(ca).unwrap().to_owned()
}

#[test]
fn rustls_speaks_tls_13_with_the_pairs() {
    let dir = pki();
    assert_eq!(handshake(dir.path(), dir.path()), Ok(()));
}

#[test]
fn another_authority_of_the_same_name_is_not_accepted() {
    let (one, other) = (pki(), pki());
    assert!(handshake(one.path(), other.path()).unwrap_err().contains("certificate"));
}

/// A handshake in memory: `a` of one directory serves `b` of another, and asks
/// for its certificate; the client takes whatever name the server has.
fn handshake(server: &Path, client: &Path) -> Result<(), String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = |dir: &Path| {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(dir, "ca.pem")).unwrap();
        Arc::new(roots)
    };
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(server), Arc::clone(&provider))
            .build()
            .unwrap();
    let serving = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate(server, "a.pem")], key(server, "a.key"))
        .unwrap();
    let calling = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ctl_support::AnyServer))
        .with_client_auth_cert(vec![certificate(client, "b.pem")], key(client, "b.key"))
        .unwrap();
    let name = ServerName::try_from("a").unwrap();
    let mut caller = ClientConnection::new(Arc::new(calling), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(serving)).unwrap();
    for _ in 0..10 {
        let mut octets = Vec::new();
        while caller.wants_write() {
            caller.write_tls(&mut octets).unwrap();
        }
        feed(&mut server, &octets)?;
        octets.clear();
        while server.wants_write() {
            server.write_tls(&mut octets).unwrap();
        }
        feed(&mut caller, &octets)?;
    }
    assert!(!caller.is_handshaking() && !server.is_handshaking());
    caller.writer().write_all(b"x").unwrap();
    let mut octets = Vec::new();
    caller.write_tls(&mut octets).unwrap();
    feed(&mut server, &octets)?;
    let mut read = [0];
    server.reader().read_exact(&mut read).map_err(|error| error.to_string())?;
    assert_eq!(&read, b"x");
    Ok(())
}

fn feed<S>(
    side: &mut impl std::ops::DerefMut<Target = rustls::ConnectionCommon<S>>,
    mut octets: &[u8],
) -> Result<(), String> {
    while !octets.is_empty() {
        side.read_tls(&mut octets).unwrap();
        side.process_new_packets().map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[test]
fn the_seal_pair_belongs_together() {
    let dir = pki();
    let read = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap();
    assert_eq!(read("a.seal.key").len(), 65, "64 digits and a newline");
    let private = SealKey::from_text(&read("a.seal.key")).unwrap();
    let public: PublicSealKey = read("a.seal.pub").trim_end().parse().unwrap();
    assert_eq!(private.public().unwrap(), public);
    assert_ne!(read("a.seal.pub"), read("b.seal.pub"));
}

#[test]
fn an_order_verifies_and_is_pulled() {
    let dir = pki();
    let out = dir.path().join("order");
    let args = |out: &Path| {
        let key = dir.path().join("noc.order.key");
        ["order", "issue", "--controller", "noc", "--from", "a", "--to", "b", "--json"]
            .map(str::to_owned)
            .into_iter()
            .chain(["--expires-in".into(), "60".into(), "--session".into(), id(1), id(2)])
            .chain(["--key".into(), key.display().to_string()])
            .chain(["--out".into(), out.display().to_string()])
    };
    let json = run(args(&out)).json();
    assert_eq!((&json["sessions"], &json["expires_in"]), (&json!(2), &json!(60)));
    assert_eq!(mode(dir.path(), "order"), 0o600);

    let text = fs::read_to_string(&out).unwrap();
    let order: Order = codec::decode(&unhex(text.trim_end())).unwrap();
    assert_eq!(json["order"], order.claims.id.to_string());
    assert_eq!(json["expires"], order.claims.expires);
    assert_eq!((order.claims.source.as_str(), order.claims.target.as_str()), ("a", "b"));
    assert_eq!(
        order.claims.sessions.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [id(1), id(2)]
    );
    let public = fs::read_to_string(dir.path().join("noc.order.pub")).unwrap();
    assert!(order.verify(&unhex(public.trim_end())));

    let again = dir.path().join("again");
    assert_ne!(run(args(&again)).json()["order"], json["order"], "each order is another one");

    let daemon = FakeDaemon::answering(&[Line::Done(
        serde_json::to_value(cxtp::service::api::Summary::default()).unwrap(),
    )]);
    let ran = daemon.run(&["pull", "--order", out.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(daemon.asked(), Request::Pull { order: text.trim_end().to_owned() });
    fs::write(&out, &text[..text.len() / 2]).unwrap();
    let ran = daemon.run(&["pull", "--order", out.to_str().unwrap()]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("is not an order") && daemon.was_not_asked());
}

#[test]
fn nothing_is_overwritten_and_nothing_half_done_stays() {
    let dir = pki();
    let before = fs::read(dir.path().join("a.key")).unwrap();
    for ran in [init(dir.path()), issue(dir.path(), "gateway", "a")] {
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.stderr.contains("is there already"), "{ran:?}");
    }
    assert_eq!(fs::read(dir.path().join("a.key")).unwrap(), before);
    fs::remove_file(dir.path().join("a.pem")).unwrap();
    assert_eq!(issue(dir.path(), "gateway", "a").code, 1);
    assert!(!dir.path().join("a.pem").exists(), "no certificate that fits no key");
}

#[test]
fn what_is_missing_or_too_open_is_named_with_its_cure() {
    let empty = tempfile::tempdir().unwrap();
    let ran = issue(empty.path(), "gateway", "a");
    assert!(ran.code == 1 && ran.stderr.contains("cxtpctl pki init"), "{ran:?}");

    let dir = pki();
    let ca = dir.path().join("ca.key");
    fs::set_permissions(&ca, fs::Permissions::from_mode(0o644)).unwrap();
    let ran = issue(dir.path(), "gateway", "c");
    assert!(ran.code == 1 && ran.stderr.contains("chmod 600"), "{ran:?}");

    let out = dir.path().join("order");
    let order = |key: &str, from: &str| {
        let key = dir.path().join(key);
        run(["order", "issue", "--controller", "noc", "--from", from, "--to", "b"]
            .into_iter()
            .chain(["--expires-in", "60", "--session", &id(1), "--key", key.to_str().unwrap()])
            .chain(["--out", out.to_str().unwrap()]))
    };
    let ran = order("noc.key", "a");
    assert!(ran.code == 1 && ran.stderr.contains("NAME.order.key"), "{ran:?}");
    let ran = order("noc.order.key", "b");
    assert!(ran.code == 2 && ran.stderr.contains("between two gateways"), "{ran:?}");
    assert!(!out.exists());
}

#[test]
fn no_key_is_ever_printed() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    let out = dir.path().join("order");
    let key = dir.path().join("noc.order.key");
    let mut printed = String::new();
    let mut note = |args: &[&str]| {
        for json in [&[] as &[&str], &["--json"]] {
            let ran = run(args.iter().chain(json));
            printed.push_str(&ran.stdout);
            printed.push_str(&ran.stderr);
        }
    };
    note(&["pki", "init", "--dir", at]);
    note(&["pki", "issue", "--dir", at, "gateway", "a"]);
    note(&["pki", "issue", "--dir", at, "gateway", "b"]);
    note(&["pki", "issue", "--dir", at, "controller", "noc"]);
    let config = ["--listen", "127.0.0.1:1", "--gateway-socket", "g", "--peer", "b=127.0.0.1:2"];
    note(&[&["pki", "config", "--dir", at, "a", "--controller", "noc"], &config[..]].concat());
    let order = ["--controller", "noc", "--from", "a", "--to", "b", "--session", &id(1)];
    let files = ["--key", key.to_str().unwrap(), "--out", out.to_str().unwrap()];
    note(&[&["order", "issue", "--expires-in", "9"], &order[..], &files[..]].concat());

    assert!(!printed.contains("PRIVATE"), "{printed}");
    let mut keys = 0;
    for entry in fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "key") {
            keys += 1;
            let text = fs::read_to_string(&path).unwrap();
            for line in text.lines().filter(|line| !line.starts_with("-----")) {
                assert!(!printed.contains(line), "{} is printed", path.display());
            }
        }
    }
    assert_eq!(keys, 7, "authority, three peers, two seals, one signer");
}
