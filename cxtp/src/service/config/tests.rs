use super::*;

const GOOD: &str = r#"
name = "gw-a"
state_dir = "state"
control_socket = "/run/x/control.sock"
listen = "127.0.0.1:0"
[tls]
ca = "ca.pem"
certificate = "gw-a.pem"
key = "gw-a.key"
[gateway]
socket = "gw.sock"
[peers.gw-b]
address = "gw-b.example:4067"
may_pull = true
pulls_per_minute = 100
seal_key = "0909090909090909090909090909090909090909090909090909090909090909"
[controllers.noc]
public_key = "0101010101010101010101010101010101010101010101010101010101010101"
[transfer]
max_transfer_ms = 150
"#;

fn load(text: &str) -> Result<Config, String> {
    Config::from_toml(text, Path::new("/etc/cxtp")).map_err(|error| error.to_string())
}

#[test]
fn a_whole_file_is_understood() {
    let config = load(GOOD).unwrap();
    assert_eq!(config.name().as_str(), "gw-a");
    assert_eq!(config.state_dir, Path::new("/etc/cxtp/state"));
    assert_eq!(config.control_socket, Path::new("/run/x/control.sock"));
    assert_eq!(config.control_mode, 0o600);
    assert_eq!(config.engine.max_transfer_time, Duration::from_millis(150));
    let peer: Name = "gw-b".parse().unwrap();
    assert!(config.engine.peers[&peer].may_pull);
    assert_eq!(config.engine.peers[&peer].max_staged, PeerPolicy::default().max_staged);
    assert!(config.peers[&peer].seal_key.is_some());
    assert_eq!(config.engine.controllers.values().next().unwrap(), &[1; 32]);
}

#[test]
fn the_effective_configuration_means_the_same() {
    let config = load(GOOD).unwrap();
    let again = load(config.effective()).unwrap();
    assert_eq!(config.effective(), again.effective());
    assert_eq!(config.engine, again.engine);
    assert!(config.effective().contains("heartbeat_ms = 1000"), "defaults are shown");
}

#[test]
fn the_engines_defaults_are_ours() {
    let config = load(&GOOD.replace("max_transfer_ms = 150", "")).unwrap();
    let expected = EngineConfig {
        peers: config.engine.peers.clone(),
        controllers: config.engine.controllers.clone(),
        ..EngineConfig::new("gw-a".parse().unwrap())
    };
    assert_eq!(config.engine, expected);
}

#[test]
fn what_is_wrong_is_named_with_key_value_and_cure() {
    let cases = [
        ("name = \"gw-a\"", "name = \"GW A\"", ["`name`", "GW A", "a-z"]),
        ("name = \"gw-a\"", "", ["`name`", "``", "certificate"]),
        ("name = \"gw-a\"", "name = \"gw-b\"", ["`peers.gw-b`", "itself", "take this section out"]),
        ("\"127.0.0.1:0\"", "true", ["`listen`", "true", "ADDRESS:PORT"]),
        ("[tls]", "control_mode = \"0666\"\n[tls]", ["`control_mode`", "0666", "0660"]),
        ("[tls]", "control_mode = \"rw\"\n[tls]", ["`control_mode`", "rw", "0600"]),
        ("[tls]", "colour = \"red\"\n[tls]", ["unknown field", "colour", "expected one of"]),
        ("ca = \"ca.pem\"", "", ["`tls.ca`", "needed", "path"]),
        ("[gateway]", "[gateway]\nkind = \"ios\"", ["`gateway.kind`", "ios", "embedded"]),
        (
            "gw-b.example:4067",
            "gw-b.example",
            ["`peers.gw-b.address`", "gw-b.example", "HOST:PORT"],
        ),
        (
            "address = \"gw-b.example:4067\"",
            "",
            ["`peers.gw-b.address`", "sorts before", "HOST:PORT"],
        ),
        ("peers.gw-b", "peers.\"Gw_b\"", ["`peers.Gw_b`", "not a name", "certificate"]),
        ("\"0909", "\"zz09", ["`peers.gw-b.seal_key`", "zz09", "64 hexadecimal"]),
        ("\"0101", "\"01", ["`controllers.noc.public_key`", "0101", "64 hexadecimal"]),
        ("= 150", "= 0", ["`transfer.max_transfer_ms`", "`0`", "from 1 to"]),
        ("= 150", "= \"soon\"", ["transfer.max_transfer_ms", "soon", "integer"]),
        ("[tls]", "[log]\nformat = \"xml\"\n[tls]", ["`log.format`", "xml", "json"]),
        ("[tls]", "[log]\nfilter = \"a=b=c\"\n[tls]", ["`log.filter`", "a=b=c", "info"]),
        ("[tls]", "[transport]\nstall_ms = 1\n[tls]", ["`transport.stall_ms`", "`1`", "from 100"]),
        ("[tls]", "[tls", ["TOML", "line 6", "expected"]),
    ];
    for (from, to, expected) in cases {
        assert!(GOOD.contains(from), "{from}");
        let error = load(&GOOD.replacen(from, to, 1)).unwrap_err();
        for part in expected {
            assert!(error.contains(part), "{to}: `{error}` does not say `{part}`");
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Path::new("/nonexistent/cxtpd.toml")).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/cxtpd.toml") && error.contains("--config"), "{error}");
}
