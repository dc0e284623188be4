//! `cxtpctl pki config`: what it prints is what the daemon takes.
#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod ctl_support;

use std::{fs, path::Path};

use cxtp::service::config::{Config, GatewayKind};

use ctl_support::{pki, run, unhex};

#[test]
fn the_printed_configuration_is_one_that_the_daemon_takes() {
    let dir = pki();
    let at = dir.path().to_str().unwrap();
    let home = dir.path().join("home of \"a\"");
    let ran = run(["pki", "config", "--dir", at, "a", "--listen", "127.0.0.1:7001"]
        .into_iter()
        .chain(["--gateway-socket", "gateway.sock", "--home", home.to_str().unwrap()])
        .chain(["--peer", "b=gateway-b.example:7002", "--controller", "noc", "--allow-pull"]));
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    let config = Config::from_toml(&ran.stdout, Path::new("/elsewhere")).unwrap();
    assert_eq!(config.name().as_str(), "a");
    assert_eq!(config.listen, "127.0.0.1:7001".parse().unwrap());
    assert_eq!(config.state_dir, home.join("state"));
    assert_eq!(config.control_socket, home.join("control.sock"));
    assert_eq!(config.tls.ca, dir.path().join("ca.pem"));
    assert_eq!(config.tls.certificate, dir.path().join("a.pem"));
    assert_eq!(config.tls.key, dir.path().join("a.key"));
    assert_eq!(config.seal_key, Some(dir.path().join("a.seal.key")));
    assert_eq!(config.gateway.kind, GatewayKind::Embedded);
    assert_eq!(config.gateway.socket, std::env::current_dir().unwrap().join("gateway.sock"));
    let b = &config.peers[&"b".parse().unwrap()];
    assert_eq!(b.address.as_deref(), Some("gateway-b.example:7002"));
    let seal = fs::read_to_string(dir.path().join("b.seal.pub")).unwrap();
    assert_eq!(b.seal_key.as_ref().map(ToString::to_string).as_deref(), Some(seal.trim_end()));
    let policy = &config.engine.peers[&"b".parse().unwrap()];
    assert!(policy.may_push && policy.may_pull && policy.pulls_per_minute > 0);
    let order = fs::read_to_string(dir.path().join("noc.order.pub")).unwrap();
    assert_eq!(config.engine.controllers[&"noc".parse().unwrap()], unhex(order.trim_end()));

    let plain = run(["pki", "config", "--dir", at, "b", "--listen", "[::]:1", "--json"]
        .into_iter()
        .chain(["--gateway-socket", "/g", "--peer", "a=[2001:db8::1]:1"]));
    let config = plain.json()["config"].as_str().unwrap().to_owned();
    let config = Config::from_toml(&config, Path::new("/")).unwrap();
    assert_eq!(config.control_socket, Path::new("/run/cxtp/control.sock"));
    assert!(!config.engine.peers[&"a".parse().unwrap()].may_pull, "only where it is wanted");

    let out = dir.path().join("b.toml");
    let to_file = ["--gateway-socket", "/g", "--peer", "a=[2001:db8::1]:1", "--out"];
    let to_file = ["pki", "config", "--dir", at, "b", "--listen", "[::]:1"]
        .into_iter()
        .chain(to_file)
        .chain([out.to_str().unwrap()]);
    assert_eq!(run(to_file.clone()).code, 0);
    assert_eq!(fs::read_to_string(&out).unwrap(), plain.json()["config"].as_str().unwrap());
    assert_eq!(run(to_file).code, 1, "nothing is overwritten");
}

#[test]
fn a_configuration_names_what_was_not_issued() {
    let dir = pki();
    let at = dir.path().to_str().unwrap();
    let config = |more: &[&str]| {
        let base = ["pki", "config", "--dir", at, "--listen", "[::]:1", "--gateway-socket", "g"];
        run(base.iter().chain(more))
    };
    for (args, cure) in [
        (&["c"] as &[&str], "pki issue --dir"),
        (&["a", "--peer", "c=h:1"], "gateway c"),
        (&["a", "--controller", "boss"], "controller boss"),
    ] {
        let ran = config(args);
        assert!(ran.code == 1 && ran.stderr.contains(cure), "{ran:?}");
    }
    for args in [["a", "--peer", "a=h:1"], ["a", "--peer", "b"], ["a", "--peer", "b=h"]] {
        assert_eq!(config(&args).code, 2, "{args:?}");
    }
}
