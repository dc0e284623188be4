//! Answers as charon 5.9.8 gave them in the lab.

use super::*;

fn said<T>(read: Result<T, AnswerError>) -> String {
    read.map(drop).unwrap_err().to_string()
}

#[test]
fn versions_are_compared_as_numbers() {
    let version = |text: &str| {
        let section = Section::new()
            .with("daemon", "charon")
            .with("version", text)
            .with("sysname", "Linux")
            .with("release", "6.1.192")
            .with("machine", "x86_64");
        Version::read(&section).unwrap().numbers()
    };
    assert_eq!(version("5.9.8"), Some((5, 9, 8)));
    assert_eq!(version("6.0.6"), Some((6, 0, 6)));
    assert_eq!(version("5.9.14dr1"), Some((5, 9, 14)));
    assert_eq!(version("6.0"), Some((6, 0, 0)));
    assert_eq!(version("6"), None);
    assert_eq!(version("unknown"), None);
    assert_eq!(said(Version::read(&Section::new())), "`daemon` is missing");
}

#[test]
fn stats_name_plugins_and_the_start() {
    let stats = Section::new()
        .with_section("uptime", Section::new().with("since", "Nov 23 15:54:05 2026"))
        .with_section("ikesas", Section::new().with("total", "3").with("half-open", "1"))
        .with_list("plugins", ["charon", "vici", "ha"]);
    let read = Stats::read(&stats).unwrap();
    assert_eq!((read.ike_sas, read.half_open), (3, 1));
    assert_eq!(read.plugins, ["charon", "vici", "ha"]);
    let without = Section::new()
        .with_section("uptime", Section::new().with("since", "today"))
        .with_section("ikesas", Section::new().with("total", "3"));
    assert_eq!(said(Stats::read(&without)), "`ikesas.half-open` is missing");
}

#[test]
fn a_connection_has_rounds_and_children() {
    let child = Section::new()
        .with("mode", "TUNNEL")
        .with_list("local-ts", ["192.168.7.0/24"])
        .with_list("remote-ts", ["dynamic"]);
    let connection = Section::new()
        .with_list("local_addrs", ["10.0.0.1"])
        .with_list("remote_addrs", ["%any"])
        .with("local_port", "500")
        .with("version", "IKEv2")
        .with("unique", "UNIQUE_NO")
        .with_section("local-1", Section::new().with("class", "pre-shared key"))
        .with_section("remote-1", Section::new().with("class", "public key"))
        .with_section(
            "remote-2",
            Section::new().with("class", "EAP").with("eap-type", "EAP_RADIUS"),
        )
        .with_section("children", Section::new().with_section("net", child));
    let read = ConnectionInfo::read("vpn", &connection).unwrap();
    assert_eq!((read.local.len(), read.remote.len()), (1, 2));
    assert_eq!(read.remote[1].eap_type.as_deref(), Some("EAP_RADIUS"));
    assert_eq!(read.children[0].name, "net");
    assert_eq!(read.children[0].remote_selectors, ["dynamic"]);
    let bad = Section::new()
        .with("version", "IKEv2")
        .with_section("children", Section::new().with_section("net", Section::new()));
    assert_eq!(said(ConnectionInfo::read("vpn", &bad)), "`vpn.children.net.mode` is missing");
}

#[test]
fn pools_come_with_their_leases() {
    let lease = Section::new()
        .with("address", "10.9.0.1")
        .with("identity", "eu@example.org")
        .with("status", "online");
    let pool = Section::new()
        .with("base", "10.9.0.0")
        .with("size", "254")
        .with("online", "1")
        .with("offline", "0");
    let with_lease = pool.clone().with_section("leases", Section::new().with_section("0", lease));
    let pools = Section::new().with_section("p", with_lease).with_section("q", pool);
    let read = Pool::read_all(&pools).unwrap();
    assert_eq!((read[0].leases.len(), read[1].leases.len()), (1, 0));
    assert!(read[0].leases[0].online);
    let bad = Section::new().with_section("p", Section::new().with("base", "nowhere"));
    assert_eq!(said(Pool::read_all(&bad)), "`p.base` is `nowhere`, not an IP address");
}

#[test]
fn algorithms_are_found_by_number_in_either_release() {
    let of = |key_exchange: &str| {
        Section::new()
            .with_section("encryption", Section::new().with("AES_CBC", "aes"))
            .with_section("aead", Section::new().with("AES_GCM_16", "openssl"))
            .with_section("integrity", Section::new().with("HMAC_SHA2_256_128", "openssl"))
            .with_section("prf", Section::new().with("PRF_HMAC_SHA2_256", "openssl"))
            .with_section(key_exchange, Section::new().with("CURVE_25519", "openssl"))
    };
    for key_exchange in ["dh", "ke"] {
        let read = Algorithms::read(&of(key_exchange)).unwrap();
        assert!(read.has_encryption(12) && read.has_encryption(20) && !read.has_encryption(28));
        assert!(read.has_integrity(12) && !read.has_integrity(14));
        assert!(read.has_prf(5) && !read.has_prf(7) && !read.has_prf(60000));
        assert!(read.has_key_exchange(31) && !read.has_key_exchange(14));
    }
    assert_eq!(said(Algorithms::read(&of("other"))), "`dh` is missing");
}
